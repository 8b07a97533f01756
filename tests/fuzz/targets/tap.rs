//! What is read from a TAP: a virtio header and a packet, a super-packet perhaps.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_encrypt::inner::{HEADERS, Inner, Vni};
use weft_encrypt::offload::outer::Outer;
use weft_encrypt::offload::vnet::{Layout, Vnet};
use weft_encrypt::offload::{MAX_SEGMENTS, Segments};

const PORT: u16 = 4790;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let layout = match kind % 3 {
        0 => Layout::Basic,
        1 => Layout::Buffers,
        _ => Layout::Tunnel,
    };
    let Ok((vnet, packet)) = Vnet::parse(data, layout) else {
        return;
    };
    let (inner, frame) = if layout == Layout::Tunnel {
        let Ok(outer) = Outer::parse(packet, PORT) else {
            return;
        };
        (outer.inner, outer.frame)
    } else {
        let vni = Vni::new(4097).expect("a number");
        let (source, destination) = (50_000, PORT);
        let inner = Inner {
            source,
            destination,
            vni,
        };
        (inner, 0..packet.len())
    };
    let Ok(segments) = Segments::new(&vnet, inner, packet, frame) else {
        return;
    };
    let count = segments.count();
    assert!((1..=MAX_SEGMENTS).contains(&count));
    for index in 0..count {
        let length = segments.length(index);
        assert!(length >= HEADERS && length <= segments.length(0));
        assert!(length == segments.length(0) || index + 1 == count);
        let mut out = vec![0xee; length];
        assert_eq!(segments.write(index, &mut out[..length - 1]), None);
        assert_eq!(segments.write(index, &mut out), Some(length));
        let (written, _) = Inner::parse(&out, PORT).expect("headers that we wrote");
        assert_eq!(written, inner);
    }
    assert_eq!(segments.length(count), 0);
    assert_eq!(segments.write(count, &mut [0; 65_535]), None);
});
