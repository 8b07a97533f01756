//! Frames of containers where the data path does what the kernel's VXLAN device does otherwise, and
//! marks of congestion on frames that were opened.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use weft_encrypt::forwarding::{ANSWER, Decision, Table, ecn, source_port};
use weft_encrypt::path::RemoteSpec;

fuzz_target!(|data: &[u8]| {
    let Some((tos, frame)) = data.split_first() else {
        return;
    };
    let ends: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
    let remotes: BTreeMap<_, _> = [3u8, 4]
        .map(|number| {
            let v6 = [0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()];
            let remote = RemoteSpec {
                addresses: vec![[10, 0, 1, number].into(), v6.into()],
                vtep: ends[usize::from(number) - 3],
            };
            ([2, 0x42, 10, 0, 1, number], remote)
        })
        .into();
    for flood in [BTreeSet::new(), ends.into()] {
        let table = Table::new(&remotes, &flood).expect("a table");
        let mut answer = [0; ANSWER];
        match table.decide(frame, &mut answer) {
            Decision::To(end) => assert!(ends.contains(&end)),
            Decision::Flood(to) => {
                assert!(!flood.is_empty() && to.iter().all(|end| flood.contains(end)));
            }
            // It is from one of the endpoints.
            Decision::Answer(length) => {
                assert!((42..=ANSWER).contains(&length));
                let from: [u8; 6] = answer[6..12].try_into().expect("six bytes");
                assert!(remotes.contains_key(&from), "an answer from {from:02x?}");
            }
            Decision::Drop(_) => {}
        }
    }
    assert!(source_port(frame) >= 0xc000);
    assert!(ecn::outer(frame) < 4);
    let mut marked = frame.to_vec();
    if ecn::decapsulate(&mut marked, *tos).is_ok() {
        assert_eq!(marked.len(), frame.len());
        let changed = marked.iter().zip(frame).filter(|(a, b)| a != b).count();
        // The mark, and the checksum over it.
        assert!(changed <= 3, "{changed} bytes were changed");
    }
});
