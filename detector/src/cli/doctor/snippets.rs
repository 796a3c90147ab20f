//! The web servers of this host, by their configuration: whether it has the lines that tell of requests. Bound: so many
//! files, and so much of each.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::finding::{Finding, warning, well};

/// Files of one server that are read, and bytes of one.
const FILES: usize = 500;
const BYTES: u64 = 1 << 20;
/// Directories below each other.
const DEPTH: usize = 6;

/// A server: where its configuration stands, and what is typed there.
const SERVERS: [(&str, &str, &str); 5] = [
    (
        "nginx",
        "etc/nginx",
        "install -m 644 /usr/share/detector/nginx/detector.conf /etc/nginx/conf.d/; nginx -t && systemctl reload nginx",
    ),
    (
        "HAProxy",
        "etc/haproxy",
        "put /usr/share/detector/haproxy/detector.cfg into the frontend of /etc/haproxy/haproxy.cfg; systemctl reload haproxy",
    ),
    (
        "Apache",
        "etc/apache2",
        "install -m 644 /usr/share/detector/apache/detector.conf /etc/apache2/conf-available/; a2enconf detector; systemctl reload apache2",
    ),
    (
        "Caddy",
        "etc/caddy",
        "put /usr/share/detector/caddy/Caddyfile's lines into /etc/caddy/Caddyfile; systemctl reload caddy",
    ),
    ("Envoy", "etc/envoy", "put /usr/share/detector/envoy/access-log.yaml into the listener, and restart Envoy"),
];

/// Looks below `root`.
pub(super) fn look(root: &Path) -> Vec<Finding> {
    let installed = SERVERS.into_iter().map(|(name, place, help)| (name, root.join(place), help));
    installed.filter(|(_, place, _)| place.is_dir()).map(|(name, place, help)| one(name, &place, help)).collect()
}

fn one(name: &str, place: &Path, help: &str) -> Finding {
    let mut files = Vec::new();
    gather(place, DEPTH, &mut files);
    // What was put aside by name alone doesn't count: dpkg's and editors' copies.
    match files.iter().find(|file| tells(file)) {
        Some(file) => well("webserver", format!("{name} has detector's lines: {}", file.display())),
        None => warning(
            "webserver",
            format!("{name} is configured in {}, without the lines that tell of requests", place.display()),
            help,
        ),
    }
}

fn gather(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort_unstable();
    for path in entries {
        if files.len() >= FILES {
            return;
        }
        // Links lead to what is enabled; `conf-available` alone says nothing.
        let aside = path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-available"));
        if path.is_dir() {
            if depth > 0 && !aside {
                gather(&path, depth - 1, files);
            }
        } else {
            files.push(path);
        }
    }
}

/// Whether a line that isn't a comment speaks of one of detector's sockets or programs.
fn tells(file: &Path) -> bool {
    let mut text = Vec::new();
    let read = File::open(file).and_then(|file| file.take(BYTES).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let is_one = |line: &str| !line.trim_start().starts_with('#') && line.contains("detector");
    read.is_ok() && text.lines().any(is_one)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_server_without_the_lines_is_told_how_to_get_them() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(look(root.path()), []);
        let conf = root.path().join("etc/nginx/conf.d");
        fs::create_dir_all(&conf).unwrap();
        fs::write(conf.join("site.conf"), "# detector was here\nserver {}\n").unwrap();
        fs::create_dir_all(root.path().join("etc/apache2/conf-available")).unwrap();
        fs::write(root.path().join("etc/apache2/conf-available/detector.conf"), "CustomLog detector\n").unwrap();
        let found = look(root.path());
        assert_eq!(found.iter().map(|found| found.state).collect::<Vec<_>>(), [State::Warning; 2], "{found:?}");
        fs::write(conf.join("detector.conf"), include_str!("../../../../dist/nginx/detector.conf")).unwrap();
        let found = look(root.path()).remove(0);
        assert!(found.state == State::Ok && found.what.ends_with("conf.d/detector.conf"), "{found:?}");
    }
}
