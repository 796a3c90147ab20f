//! A small site as files: pages that link to each other, each with a style, a script and a picture, a page that asks for
//! news, one without an end, a feed, a health page, and a path that `robots.txt` forbids and no page shows.

use std::fs;
use std::path::Path;

use anyhow::Result;

/// Its numbered pages.
const PAGES: u32 = 60;
/// A path that no page links to, but `robots.txt` names.
const TRAP: &str = "/private/";

/// The smallest PNG there is.
const PICTURE: [u8; 67] = [
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, 0x49, 0x48, 0x44, 0x52, 0, 0, 0, 1, 0, 0, 0, 1, 8, 0,
    0, 0, 0, 0x3a, 0x7e, 0x9b, 0x55, 0, 0, 0, 10, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0, 1, 0, 0, 5, 0, 1, 0x0d,
    0x0a, 0x2d, 0xb4, 0, 0, 0, 0, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
];

/// A page whose script asks for something each second, each time under another address.
const POLLS: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>News</title><link rel="stylesheet" href="/style.css"></head>
<body><h1>News</h1><script>
let since = 0;
setInterval(() => fetch(`/api/news.json?since=${since++}`), 1000);
</script></body></html>
"#;

/// A page whose script gets the next piece when the end is near.
const ENDLESS: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>All of it</title><link rel="stylesheet" href="/style.css"></head>
<body><main style="min-height: 120vh"><h1>All of it</h1></main><script>
let next = 1, busy = false;
addEventListener("scroll", async () => {
  if (busy || innerHeight + scrollY < document.body.scrollHeight - 400) return;
  busy = true;
  const piece = document.createElement("section");
  piece.innerHTML = await (await fetch(`/page/${next++}/`)).text();
  piece.style.minHeight = "90vh";
  document.body.append(piece);
  busy = false;
});
</script></body></html>
"#;

/// Writes it into a new directory.
///
/// # Errors
/// When a file can't be written.
pub fn write(directory: &Path) -> Result<()> {
    for below in ["page", "picture", "app", "stream", "api"] {
        fs::create_dir_all(directory.join(below))?;
    }
    fs::write(directory.join("index.html"), page(0))?;
    for number in 1..=PAGES {
        fs::create_dir_all(directory.join(format!("page/{number}")))?;
        fs::write(directory.join(format!("page/{number}/index.html")), page(number))?;
    }
    for number in 0..=PAGES {
        fs::write(directory.join(format!("picture/{number}.png")), PICTURE)?;
    }
    fs::write(directory.join("style.css"), "body { font: 16px/1.5 serif; margin: 2em } a { display: inline-block }\n")?;
    fs::write(directory.join("site.js"), "document.documentElement.dataset.ready = 1;\n")?;
    fs::write(directory.join("favicon.ico"), PICTURE)?;
    fs::write(directory.join("app/index.html"), POLLS)?;
    fs::write(directory.join("stream/index.html"), ENDLESS)?;
    fs::write(directory.join("api/news.json"), "[]\n")?;
    fs::write(directory.join("health"), "ok\n")?;
    fs::write(directory.join("feed.xml"), "<rss version=\"2.0\"><channel><title>Shop</title></channel></rss>\n")?;
    fs::write(directory.join("robots.txt"), format!("User-agent: *\nDisallow: {TRAP}\n"))?;
    Ok(())
}

/// A page with six links to others, and what belongs to it.
fn page(number: u32) -> String {
    let links = [1, 7, 13, 22, 31, 45].map(|step| {
        let other = (number + step) % PAGES + 1;
        format!("<p><a class=\"more\" href=\"/page/{other}/\">Shelf {other}</a></p>\n")
    });
    let text = "Something to read, as shops have it. ".repeat(12);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Shelf {number}</title>\n\
         <link rel=\"stylesheet\" href=\"/style.css\"><script src=\"/site.js\" defer></script></head>\n\
         <body><h1>Shelf {number}</h1><img src=\"/picture/{number}.png\" alt=\"\"><p>{text}</p>\n{}</body></html>\n",
        links.concat()
    )
}
