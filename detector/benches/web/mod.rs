//! nginx with the lines of `dist/`, and the same nginx without them.

use std::{
    fs,
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    host::{Host, Running, run, wait_for},
    questions::{Load, load},
};

const SNIPPETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/nginx");

/// Starts it beside the daemon that it asks.
pub(crate) fn start(host: &Host) -> Running {
    // Its workers are nobody's.
    run(Command::new("chmod").arg("0755").arg(host.directory()));
    run(Command::new("chmod").arg("0666").arg(host.decision()));
    let snippet = |name: &str| {
        let text = fs::read_to_string(format!("{SNIPPETS}/detector-decision-{name}.conf")).expect("a snippet");
        text.replace("/run/detector/decision.sock", &host.decision().to_string_lossy())
    };
    let configuration = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log error.log; events {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u;\n\
         scgi_temp_path s; keepalive_requests 1000000;\n{}\n\
         upstream page {{ server 127.0.0.1:8081; keepalive 32; keepalive_requests 1000000; }}\n\
         server {{ listen 127.0.0.1:8081; keepalive_requests 1000000; return 200 page; }}\n\
         server {{ listen 127.0.0.1:8080; proxy_http_version 1.1; proxy_set_header Connection '';\n{}\n\
         location /plain {{ auth_request off; proxy_pass http://page; }}\n\
         location /asked {{ {}\nproxy_pass http://page; }} }} }}",
        snippet("http"),
        snippet("location"),
        snippet("server"),
    );
    fs::write(host.file("nginx.conf"), configuration).expect("a file");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(host.directory()).args(["-c", "nginx.conf", "-e", "error.log"]).stdout(Stdio::null());
    let nginx = Running(command.spawn().expect("nginx is installed"));
    wait_for("nginx", || TcpStream::connect("127.0.0.1:8080").is_ok());
    nginx
}

/// The latencies of requests for a path, 1,000 a second, ms.
pub(crate) fn request(path: &str, lasts: Duration) -> Vec<f64> {
    let streams = (0..16).map(|_| TcpStream::connect("127.0.0.1:8080").expect("a connection")).collect();
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n\r\n").into_bytes();
    let look = Duration::from_micros(100);
    load::<TcpStream>(streams, |_| request.clone(), Load { rate: 1000, lasts, look })
}
