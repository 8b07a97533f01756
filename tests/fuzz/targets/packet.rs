//! A datagram on the port of ESP, from whomever.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_encrypt::esp::{Encapsulated, Spi, classify};
use weft_encrypt::inner::Inner;
use weft_encrypt::keys::SaKey;
use weft_encrypt::sa::{InboundSa, InboundTable};

fuzz_target!(|datagram: &[u8]| {
    let mut table = InboundTable::new();
    for spi in [256, 0x0102_0304, u32::MAX] {
        let spi = Spi::new(spi).expect("one that is not reserved");
        let key = SaKey::from_bytes([7; 36]);
        table.insert(InboundSa::new(spi, key)).expect("room");
    }
    if let Ok(Encapsulated::Esp(spi)) = classify(datagram) {
        assert_eq!(datagram[..4], spi.get().to_be_bytes());
    }
    let opened = table.open(&mut datagram.to_vec());
    assert!(opened.is_err(), "nobody has sealed {datagram:?}");
    if let Ok((inner, frame)) = Inner::parse(datagram, 4790) {
        assert_eq!(frame.end, datagram.len());
        let again = inner.to_bytes(frame.len()).expect("a length that was said");
        assert_eq!(
            Inner::parse(&[&again, &datagram[frame]].concat(), 4790).map(|i| i.0),
            Ok(inner)
        );
    }
});
