use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use weft_agent::health::Probe;

use super::Test;
use super::place::{Look, PORT, Place};

pub(crate) const TESTS: &[Test] = &[
    ("success_and_redirects_are_healthy", healthy_statuses),
    ("errors_are_not_healthy", unhealthy_statuses),
    ("the_request_names_the_host_and_the_path", request),
    ("what_is_not_http_is_not_healthy", not_http),
    ("a_long_head_is_not_read_to_its_end", long_head),
    ("a_body_without_an_end_is_not_waited_for", endless_body),
    ("silence_is_late", silence),
    ("a_path_that_cannot_be_asked_for_is_said", bad_path),
];

fn probe() -> Probe {
    Probe::Http {
        port: PORT,
        path: "/health?full=1".to_owned(),
    }
}

/// Answers every connection with this, and tells the heads of the requests. Ends when the test
/// process does, as its namespace would.
fn serve(listener: TcpListener, answer: Vec<u8>) -> Receiver<Vec<String>> {
    let (tell, told) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let head = read_head(&stream);
            // The prober does not wait for what it does not need.
            let _ = (&stream).write_all(&answer);
            let _ = tell.send(head);
        }
    });
    told
}

fn read_head(stream: &TcpStream) -> Vec<String> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect()
}

fn answered(answer: impl Into<Vec<u8>>) -> (Place, Look, Receiver<Vec<String>>) {
    let place = Place::new();
    let heads = serve(place.listen(), answer.into());
    let look = Look::one(&place, probe());
    (place, look, heads)
}

fn healthy_statuses() {
    for status in ["200 OK", "204 No Content", "302 Found", "399 Odd"] {
        let answer = format!("HTTP/1.1 {status}\r\nLocation: http://10.0.1.2/x\r\n\r\n");
        let (_place, mut look, heads) = answered(answer);
        look.assert_healthy();
        // No redirect is followed.
        let mut seen = Vec::new();
        look.until("a second probe", || {
            seen.extend(heads.try_iter());
            seen.len() >= 2
        });
        let asked = "GET /health?full=1 HTTP/1.1";
        assert!(seen.iter().all(|head| head[0] == asked), "{seen:?}");
    }
    let (_place, mut look, _heads) = answered("HTTP/1.0 200 OK\r\n\r\nhello");
    look.assert_healthy();
}

fn unhealthy_statuses() {
    for status in [
        "404 Not Found",
        "500 Internal Server Error",
        "400 Bad Request",
    ] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno");
        let (_place, mut look, _heads) = answered(answer);
        look.assert_unhealthy(&format!("answered with status {status}"));
    }
}

fn request() {
    let (_place, mut look, heads) = answered("HTTP/1.1 200 OK\r\n\r\n");
    look.assert_healthy();
    let head = heads.recv().unwrap();
    assert_eq!(head[0], "GET /health?full=1 HTTP/1.1");
    let lower: Vec<String> = head.iter().map(|line| line.to_lowercase()).collect();
    assert!(lower.contains(&"host: 10.0.1.2:80".to_owned()), "{head:?}");
    assert!(lower.contains(&"connection: close".to_owned()), "{head:?}");
}

fn not_http() {
    let (_place, mut look, _heads) = answered("SSH-2.0-OpenSSH_9.2\r\n");
    look.assert_unhealthy("10.0.1.2:80 does not answer as HTTP does");
    let (_place, mut look, _heads) = answered("");
    look.assert_unhealthy("10.0.1.2:80 does not answer as HTTP does");
}

fn long_head() {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n",
        "x".repeat(64 << 10)
    );
    let (_place, mut look, _heads) = answered(answer);
    look.assert_unhealthy("10.0.1.2:80 does not answer as HTTP does");
}

fn endless_body() {
    let place = Place::new();
    let listener = place.listen();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&stream);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head).unwrap();
        // Until the other side goes.
        while stream.write_all(b"1\r\nx\r\n").is_ok() {}
    });
    let mut look = Look::one(&place, probe());
    look.assert_healthy();
    server.join().unwrap();
}

fn silence() {
    let place = Place::new();
    let listener = place.listen();
    thread::spawn(move || {
        let read = |mut stream: TcpStream| stream.read_to_end(&mut Vec::new());
        listener
            .incoming()
            .map_while(Result::ok)
            .for_each(|stream| {
                let _ = read(stream);
            });
    });
    let mut target = place.target(probe());
    target.check.timeout = Duration::from_millis(100);
    let mut look = Look::at(place.directory.path(), [target]);
    look.assert_unhealthy("10.0.1.2:80 does not answer within 100ms");
}

fn bad_path() {
    let place = Place::new();
    let _server = place.listen();
    let path = "/with a space\u{7f}".to_owned();
    let mut look = Look::one(&place, Probe::Http { port: PORT, path });
    look.assert_unhealthy("cannot be asked for");
}
