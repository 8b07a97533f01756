//! ESP of another implementation: scapy, by way of `tests/esp/esp.py`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs};

use serde::Deserialize;

/// Names the Python that has scapy, where it is neither of the usual ones.
const PYTHON: &str = "WEFT_TEST_PYTHON";
/// Debian's own first: its packages are not in another Python that comes first in `PATH`.
const USUAL: [&str; 2] = ["/usr/bin/python3", "python3"];
const NEEDED: &str = "import scapy.layers.ipsec, cryptography";

/// A key that a test made up.
#[derive(Clone, Copy)]
pub(crate) struct TestKey {
    /// SPI.
    pub(crate) spi: u32,
    /// Key, and salt behind it (RFC 4106 section 8.1).
    pub(crate) key: [u8; 36],
}

/// What scapy says of a datagram.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Told {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) spi: u32,
    pub(crate) sequence: u64,
    pub(crate) next_header: u8,
    pub(crate) payload: String,
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) vni: u32,
    pub(crate) frame: String,
    pub(crate) error: Option<String>,
}

/// The other implementation, with keys.
pub(crate) struct Decoder {
    python: String,
    scratch: tempfile::TempDir,
}

impl Decoder {
    /// Fails, and says what to install, where there is none.
    pub(crate) fn new(keys: &[TestKey]) -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let lines = keys.iter().map(|TestKey { spi, key }| {
            let (key, salt) = key.split_at(32);
            format!("{spi:08x} {} {}\n", hex(key), hex(salt))
        });
        fs::write(scratch.path().join("keys"), lines.collect::<String>()).expect("the keys");
        Self {
            python: python(),
            scratch,
        }
    }

    /// What it finds in a capture file.
    pub(crate) fn open(&self, capture: &Path) -> Vec<Told> {
        let arguments = ["open".into(), self.keys(), capture.to_owned()];
        let told = self.run(&arguments, "");
        told.lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }

    /// What it finds in frames of Ethernet.
    pub(crate) fn open_frames(&self, frames: &[Vec<u8>]) -> Vec<Told> {
        let path = self.scratch.path().join("capture");
        fs::write(&path, capture(frames)).expect("the capture");
        self.open(&path)
    }

    /// Packets that it makes, from SPI to ICV, of associations, sequence numbers and payloads.
    pub(crate) fn seal(&self, clear: &[(u32, u64, &[u8])]) -> Vec<Vec<u8>> {
        let lines = clear
            .iter()
            .map(|(spi, sequence, payload)| format!("{spi:x} {sequence:x} {}\n", hex(payload)));
        let told = self.run(&["seal".into(), self.keys()], &lines.collect::<String>());
        told.lines().map(unhex).collect()
    }

    fn keys(&self) -> PathBuf {
        self.scratch.path().join("keys")
    }

    fn run(&self, arguments: &[PathBuf], input: &str) -> String {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/esp/esp.py");
        let mut child = Command::new(&self.python)
            .arg(tool)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("scapy");
        let mut stdin = child.stdin.take().expect("stdin");
        let input = input.to_owned();
        // It answers while it is asked.
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("scapy");
        let written = writer.join().expect("the writer");
        text_of(&output, &arguments[0].display().to_string(), written)
    }
}

fn text_of(output: &Output, what: &str, written: std::io::Result<()>) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scapy, {what}: {complaint}");
    written.expect("all was asked");
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn python() -> String {
    let named = env::var(PYTHON).ok();
    let usual = USUAL.map(str::to_owned);
    let mut candidates = named.into_iter().chain(usual);
    let has_scapy = |python: &String| {
        let tried = Command::new(python).args(["-c", NEEDED]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    candidates.find(has_scapy).unwrap_or_else(|| {
        panic!(
            "no Python with scapy, the independent implementation of ESP: \
             apt-get install python3-scapy python3-cryptography, \
             or name another Python that has both in {PYTHON}"
        )
    })
}

/// A capture file of Ethernet frames (draft-ietf-opsawg-pcap, link type 1).
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 1 << 18, 1]);
    for frame in frames {
        let length = u32::try_from(frame.len()).expect("a frame");
        file.extend(words(&[0, 0, length, length]));
        file.extend_from_slice(frame);
    }
    file
}

/// Bytes as two digits each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`hex`] made.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).expect("text"), 16).expect("hex");
    pairs.map(byte).collect()
}
