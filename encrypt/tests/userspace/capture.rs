//! What is on the underlay: a packet socket on its link.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, SockaddrLike, bind};
use socket2::{Domain, Protocol, Socket, Type};
use weft_test_netns::Ns;

/// `ETH_P_ALL` in network byte order: every frame, outgoing ones too (packet(7)).
const ETH_P_ALL: i32 = 0x0300;

/// Frames on a link, until it is [finished](Capture::finish).
pub(crate) struct Capture {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Capture {
    /// Listens when it returns.
    pub(crate) fn start(ns: &Ns, link: &'static str) -> Self {
        let mut socket = ns.run(|| {
            let socket =
                Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ETH_P_ALL))).unwrap();
            let addresses = getifaddrs()
                .unwrap()
                .filter(|found| found.interface_name == link);
            let address: LinkAddr = addresses
                .filter_map(|found| found.address)
                .find_map(|address| address.as_link_addr().copied())
                .unwrap();
            assert!(address.len() > 0);
            bind(socket.as_raw_fd(), &address).unwrap();
            socket
        });
        socket.set_recv_buffer_size(32 << 20).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let thread = thread::spawn(move || {
            let (mut frames, mut frame) = (Vec::new(), vec![0; 1 << 17]);
            loop {
                match socket.read(&mut frame) {
                    Ok(length) => frames.push(frame[..length].to_vec()),
                    // Nothing for a while: what was queued has been read.
                    Err(_) if is_done.load(Relaxed) => return frames,
                    Err(_) => {}
                }
            }
        });
        Self { done, thread }
    }

    /// What was seen so far, in order. There must be an end of the traffic.
    pub(crate) fn finish(self) -> Vec<Vec<u8>> {
        self.done.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

/// The UDP payloads to that port over IPv4 or IPv6, and how many frames are something else.
pub(crate) fn datagrams(frames: &[Vec<u8>], port: u16) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for frame in frames {
        let udp = match frame.get(12..14) {
            Some([0x08, 0x00]) if frame.get(23) == Some(&17) => 34,
            Some([0x86, 0xdd]) if frame.get(20) == Some(&17) => 54,
            _ => frame.len(),
        };
        match frame.get(udp..udp + 8) {
            Some([_, _, high, low, ..]) if [*high, *low] == port.to_be_bytes() => {
                found.push(&frame[udp + 8..]);
            }
            _ => others.push(frame.as_slice()),
        }
    }
    (found, others)
}
