//! Datagrams that a control port must survive.

use std::net::UdpSocket;

use anyhow::Result;

/// Enough to be noticed, few enough to be nothing.
const ROUNDS: usize = 50;

/// Sends truncated, oversized and meaningless datagrams to `HOST:PORT`.
pub fn main(target: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // A QUIC version negotiation probe, a long header of an unknown version cut short, noise.
    let shapes: [Vec<u8>; 5] = [
        vec![],
        vec![0],
        vec![0xc0, 0xba, 0xba, 0xba, 0xba, 8, 1, 2],
        (0..1200u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect(),
        vec![0xff; 9000],
    ];
    for round in 0..ROUNDS {
        for shape in &shapes {
            let mut datagram = shape.clone();
            if let Some(byte) = datagram.get_mut(round % shape.len().max(1)) {
                *byte ^= round as u8;
            }
            socket.send_to(&datagram, target)?;
        }
    }
    Ok(())
}
