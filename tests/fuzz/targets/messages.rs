//! What peers say of their keys, and what one data-plane process leaves to the next.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_encrypt::path::{Form, PathSpec, PathState};
use weft_encrypt::rotation::Status;
use weft_encrypt::userspace::{HandedOver, HandedOverState, Userspace};

fuzz_target!(|data: &[u8]| {
    let Some((kind, message)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => status(message),
        1 => again::<PathSpec>(message),
        2 => again::<PathState>(message),
        _ => handed_over(message),
    }
});

/// As agents send it (`weft_raft::codec`), behind the version.
fn status(message: &[u8]) {
    let config = bincode::config::standard().with_limit::<{ 1 << 20 }>();
    let decoded = bincode::serde::decode_from_slice::<Status, _>(message, config);
    if let Ok((status, used)) = decoded {
        assert!(used <= message.len());
        let bytes = bincode::serde::encode_to_vec(status, config).expect("it was decoded");
        let again = bincode::serde::decode_from_slice::<Status, _>(&bytes, config);
        assert_eq!(again.expect("it was encoded").0, status);
    }
}

fn again<T: DeserializeOwned + Serialize + PartialEq>(message: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(message) {
        let bytes = serde_json::to_vec(&value).expect("it was decoded");
        let again: T = serde_json::from_slice(&bytes).expect("it was encoded");
        assert!(again == value, "{:?}", String::from_utf8_lossy(&bytes));
    }
}

/// Without descriptors it is never gone on with, whatever it says.
fn handed_over(message: &[u8]) {
    let Ok(state) = serde_json::from_slice::<HandedOverState>(message) else {
        return;
    };
    let spec = PathSpec {
        local: [192, 0, 2, 1].into(),
        esp_port: 4500,
        inner_port: 4790,
        underlay_mtu: 1500,
        peers: [([192, 0, 2, 2].into(), Default::default())].into(),
        form: Form::Vxlan,
        ports: Default::default(),
    };
    let started = Userspace::start(spec, Some(HandedOver::new(state, Vec::new())));
    assert!(started.is_err());
}
