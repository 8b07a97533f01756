//! A process that holds the device, as the data-plane process does, and shows what is in it.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use super::node::ip_json;
use super::ns::{DEADLINE, Ns};

const DEVICE: &str = "/dev/net/tun";

/// Opens the device (`IFF_TAP | IFF_NO_PI`), prints its address and the frames that it gets, and writes those
/// that it is told, in hexadecimal.
const PROGRAM: &str = r#"
import fcntl, os, select, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", b"wf-esp", 0x1002))
# SIOCGIFHWADDR
print(fcntl.ioctl(tap, 0x8927, bytes(40))[18:24].hex(), flush=True)
while True:
    ready, _, _ = select.select([tap, 0], [], [])
    if tap in ready:
        try:
            print(os.read(tap, 65536).hex(), flush=True)
        except OSError:
            pass
    if 0 in ready:
        line = sys.stdin.readline()
        if not line:
            break
        os.write(tap, bytes.fromhex(line.strip()))
"#;

/// Whether this user may make such devices.
pub(super) fn may_open() -> bool {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .is_ok()
}

/// The process.
pub(super) struct Tap {
    child: Child,
    stdin: ChildStdin,
    frames: Receiver<Vec<u8>>,
    /// MAC address of the device.
    pub(super) mac: [u8; 6],
}

impl Tap {
    pub(super) fn open(ns: &Ns) -> Self {
        let child = ns.run(|| {
            Command::new("/usr/bin/python3")
                .args(["-u", "-c", PROGRAM])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
        });
        let mut child = child.expect("python3, which holds the device for this case");
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mac = unhex(&lines.next().unwrap().unwrap());
        let (sender, frames) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(unhex(&line));
            }
        });
        Self {
            child,
            stdin,
            frames,
            mac: mac.try_into().unwrap(),
        }
    }

    /// The next frame that the host sends into it.
    pub(super) fn frame(&self) -> Vec<u8> {
        self.frames.recv_timeout(DEADLINE).expect("a frame in time")
    }

    /// Gives the host a frame.
    pub(super) fn give(&mut self, frame: &[u8]) {
        writeln!(self.stdin, "{}", hex(frame)).unwrap();
    }

    /// Ends the process, and with it the device.
    pub(super) fn vanish(mut self, ns: &Ns) {
        self.end();
        let start = Instant::now();
        while ip_json(ns, &["link"]).to_string().contains("wf-esp") {
            assert!(start.elapsed() < DEADLINE, "the device stays");
            std::thread::yield_now();
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.end();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}
