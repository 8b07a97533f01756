//! Apart and together again: what comes out is what went in.

mod merging;
mod segmenting;
mod vectors;
mod wrapping;

use std::io::IoSlice;

use super::outer::Outer;
use super::test_frames::*;
use super::vnet::{Layout, Vnet};
use super::*;
use crate::inner::{HEADERS, Inner};

/// All that is sent of a packet, without UDP and VXLAN headers, which are checked.
fn frames(segments: &Segments<'_>, inner: Inner) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for index in 0..segments.count() {
        let length = segments.length(index);
        let mut buffer = vec![0xee; length + 3];
        assert_eq!(segments.write(index, &mut buffer[..length - 1]), None);
        assert!(buffer.iter().all(|byte| *byte == 0xee));
        assert_eq!(segments.write(index, &mut buffer), Some(length));
        assert_eq!(buffer[length..], [0xee; 3]);
        assert!(length <= segments.length(0));
        assert!(index + 1 == segments.count() || length == segments.length(0));
        let (parsed, frame) = Inner::parse(&buffer[..length], inner.destination).unwrap();
        assert_eq!(parsed, inner);
        assert_eq!(buffer[6..8], [0, 0], "checksum");
        out.push(buffer[frame].to_vec());
    }
    assert_eq!(segments.length(segments.count()), 0);
    assert_eq!(segments.write(segments.count(), &mut [0; 70_000]), None);
    out
}

/// What is sent of a packet read from a TAP that is a bridge port.
fn of_frame(vnet: &Vnet, frame: &[u8]) -> Result<Vec<Vec<u8>>, Rejection> {
    Segments::new(vnet, inner(), frame, 0..frame.len()).map(|s| frames(&s, inner()))
}

/// What is sent of a packet that came from the kernel's VXLAN device.
fn of_tunnel(vnet: &Vnet, packet: &[u8]) -> Result<Vec<Vec<u8>>, Rejection> {
    let outer = Outer::parse(packet, PORT)?;
    let segments = Segments::new(vnet, outer.inner, packet, outer.frame)?;
    Ok(frames(&segments, outer.inner))
}

fn tunnel(v6: bool) -> Config {
    Config {
        form: Form::Tunnel(wrapper(v6)),
        tcp: true,
        udp: true,
    }
}

fn bridge_port(layout: Layout) -> Config {
    Config {
        form: Form::Frame(layout),
        tcp: true,
        udp: true,
    }
}

/// Frames as they are after a batch: how many each write has, and its bytes.
fn coalesce(coalescer: &mut Coalescer, frames: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
    let v6 = matches!(coalescer.config().form, Form::Tunnel(w) if w.local.is_ipv6());
    for (buffer, frame) in frames.iter().enumerate() {
        let arrival = Arrival {
            peer: peer(v6),
            tos: 3,
            inner: inner(),
            buffer,
            frame: 0..frame.len(),
        };
        coalescer.push(arrival, frame).unwrap();
    }
    flush(coalescer, frames)
}

fn flush(coalescer: &mut Coalescer, buffers: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
    let mut out = Vec::new();
    coalescer.flush(
        |buffer| &buffers[buffer],
        |merged| {
            let bytes = merged.slices.iter().flat_map(|s: &IoSlice<'_>| s.to_vec());
            out.push((merged.segments, bytes.collect()));
        },
    );
    out
}

/// The frames that a write to the TAP stands for. In a tunnel the outer headers are checked.
fn taken_apart(config: &Config, written: &[u8]) -> Vec<Vec<u8>> {
    match config.form {
        Form::Frame(layout) => {
            let (vnet, frame) = Vnet::parse(written, layout).unwrap();
            of_frame(&vnet, frame).unwrap()
        }
        Form::Tunnel(wrapper) => {
            let (vnet, packet) = Vnet::parse(written, Layout::Tunnel).unwrap();
            let v6 = wrapper.local.is_ipv6();
            let outer = Outer::parse(packet, PORT).unwrap();
            assert_eq!((outer.source, outer.destination), (peer(v6), wrapper.local));
            assert_eq!((outer.tos, outer.inner), (3, inner()));
            assert_eq!(outer.frame.end, packet.len());
            if vnet.is_super_packet() {
                assert_eq!(
                    usize::from(vnet.outer_th_offset) + HEADERS,
                    outer.frame.start
                );
                assert_eq!(usize::from(vnet.inner_nh_offset), outer.frame.start + 14);
            }
            let parsed = etherparse::SlicedPacket::from_ethernet(packet).unwrap();
            assert_eq!(
                parsed
                    .link
                    .unwrap()
                    .to_header()
                    .unwrap()
                    .ethernet2()
                    .unwrap()
                    .destination,
                wrapper.mac
            );
            of_tunnel(&vnet, packet).unwrap()
        }
    }
}
