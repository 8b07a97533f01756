use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SanType,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::key::node_id as key_node_id;
use super::*;
use crate::model::{ClusterId, Role};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CLUSTER: ClusterId = ClusterId::new([7; 10]);

fn authority() -> Authority {
    Authority::create(CLUSTER, SystemTime::now()).unwrap()
}

fn identity(authority: &Authority, role: Role) -> Identity {
    let key = NodeKey::generate().unwrap();
    let csr = key.csr().unwrap();
    let cert = authority.sign(&csr, role, DAY, SystemTime::now()).unwrap();
    Identity::new(key, &cert, authority.cert_der()).unwrap()
}

#[test]
fn a_signed_certificate_says_what_the_authority_meant() {
    let authority = authority();
    let key = NodeKey::generate().unwrap();
    let csr = key.csr().unwrap();
    let now = SystemTime::now();
    let cert = authority.sign(&csr, Role::Worker, DAY, now).unwrap();
    let facts = NodeFacts::read(&cert).unwrap();
    assert_eq!(facts.node, key.node_id());
    assert_eq!((facts.role, facts.cluster), (Role::Worker, CLUSTER));
    let hour = Duration::from_secs(3600);
    let second = Duration::from_secs(1);
    assert!(facts.not_before <= now - hour && facts.not_before > now - hour - second);
    assert!(facts.not_after <= now + DAY && facts.not_after > now + DAY - second);
    assert_eq!(Authority::requester(&csr).unwrap(), key.node_id());
}

#[test]
fn a_node_certificate_does_not_outlive_its_authority() {
    let authority = authority();
    let csr = NodeKey::generate().unwrap().csr().unwrap();
    for lifetime in [DAY * 365 * 100, Duration::MAX] {
        let now = SystemTime::now();
        let cert = authority.sign(&csr, Role::Worker, lifetime, now).unwrap();
        let ca = CaFacts::read(authority.cert_der()).unwrap();
        assert_eq!(NodeFacts::read(&cert).unwrap().not_after, ca.not_after);
    }
}

#[test]
fn an_authority_is_the_same_after_it_was_stored() {
    let authority = authority();
    let again = Authority::from_parts(authority.cert_der(), &authority.key_der()).unwrap();
    assert_eq!(again.digest(), authority.digest());
    assert_eq!(again.cluster(), CLUSTER);
    let other = Authority::create(CLUSTER, SystemTime::now()).unwrap();
    assert!(Authority::from_parts(authority.cert_der(), &other.key_der()).is_err());
}

#[test]
fn a_request_that_was_tampered_with_is_refused() {
    let authority = authority();
    let key = NodeKey::generate().unwrap();
    let csr = key.csr().unwrap();
    let mut refused = 0;
    for place in 0..csr.len() {
        let mut bad = csr.clone();
        bad[place] ^= 1;
        match authority.sign(&bad, Role::Manager, DAY, SystemTime::now()) {
            Err(_) => refused += 1,
            // The frame around the signature has a bit that means nothing.
            Ok(cert) => assert_eq!(NodeFacts::read(&cert).unwrap().node, key.node_id()),
        }
    }
    assert!(refused >= csr.len() - 2, "{refused} of {}", csr.len());
    for len in 0..csr.len() {
        assert!(Authority::requester(&csr[..len]).is_err());
    }
    let longer = [csr.as_slice(), &[0]].concat();
    assert!(Authority::requester(&longer).is_err());
    assert!(Authority::requester(&vec![0x30; 100_000]).is_err());
}

#[test]
fn what_a_request_asks_for_beside_its_key_is_dropped() {
    let authority = authority();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let hostile = "manager.example".try_into().unwrap();
    params.subject_alt_names = vec![SanType::DnsName(hostile)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    for (kind, value) in [
        (DnType::OrganizationalUnitName, "manager"),
        (DnType::CommonName, "somebody"),
    ] {
        params.distinguished_name.push(kind, value);
    }
    let csr = params.serialize_request(&key).unwrap();
    let cert = authority
        .sign(csr.der(), Role::Worker, DAY, SystemTime::now())
        .unwrap();
    let facts = NodeFacts::read(&cert).unwrap();
    assert_eq!(facts.role, Role::Worker);
    let (_, parsed) = X509Certificate::from_der(&cert).unwrap();
    assert!(!parsed.is_ca());
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value;
    let expected = format!("DNSName({}.node.weft)", facts.node);
    assert_eq!(names.general_names.len(), 1);
    assert_eq!(names.general_names[0].to_string(), expected);
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.code_signing);
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let authority = authority();
    for kind in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(kind).unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let refusal = authority
            .sign(csr.der(), Role::Worker, DAY, SystemTime::now())
            .unwrap_err();
        assert!(refusal.to_string().contains("P-256"), "{refusal}");
        assert!(NodeKey::from_der(key.serialized_der()).is_err());
    }
}

#[test]
fn a_certificate_whose_name_is_not_the_digest_of_its_key_is_refused() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    for (kind, value) in [
        (DnType::OrganizationName, CLUSTER.to_string()),
        (DnType::OrganizationalUnitName, "manager".to_string()),
        (DnType::CommonName, "aaaaaaaaaaaaaaaa".to_string()),
    ] {
        params.distinguished_name.push(kind, value);
    }
    let cert = params.self_signed(&key).unwrap();
    assert!(NodeFacts::read(cert.der()).is_err());
    let node = key_node_id(&key.subject_public_key_info());
    params.distinguished_name.remove(DnType::CommonName);
    params
        .distinguished_name
        .push(DnType::CommonName, node.to_string());
    let cert = params.self_signed(&key).unwrap();
    assert_eq!(NodeFacts::read(cert.der()).unwrap().node, node);
}

#[test]
fn parts_that_do_not_belong_together_make_no_identity() {
    let (ours, theirs) = (authority(), authority());
    let identity = identity(&ours, Role::Manager);
    let other_key = NodeKey::generate().unwrap();
    assert!(Identity::new(other_key, identity.cert_der(), ours.cert_der()).is_err());
    let same_key = || NodeKey::from_der(&identity.key().to_der()).unwrap();
    assert!(Identity::new(same_key(), identity.cert_der(), theirs.cert_der()).is_err());
    assert!(Identity::new(same_key(), ours.cert_der(), ours.cert_der()).is_err());
    assert!(Identity::new(same_key(), identity.cert_der(), ours.cert_der()).is_ok());
}

#[test]
fn an_identity_is_the_same_after_it_was_saved_and_only_its_owner_may_read_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("identity");
    assert!(Identity::load(&dir).unwrap().is_none());
    let identity = identity(&authority(), Role::Manager);
    identity.save(&dir).unwrap();
    identity.save(&dir).unwrap();
    let loaded = Identity::load(&dir).unwrap().unwrap();
    assert_eq!(loaded.node, identity.node);
    assert_eq!(loaded.role, Role::Manager);
    assert_eq!(loaded.cert_der(), identity.cert_der());
    assert_eq!(loaded.ca_digest(), identity.ca_digest());
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(Result::unwrap).collect();
    assert_eq!(names.len(), 3);
    for entry in names {
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.path());
    }
    Identity::wipe(&dir).unwrap();
    Identity::wipe(&dir).unwrap();
    assert!(Identity::load(&dir).unwrap().is_none());
}

#[test]
fn a_save_that_stopped_before_the_certificate_is_as_if_nothing_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    identity(&authority(), Role::Worker)
        .save(dir.path())
        .unwrap();
    fs::remove_file(dir.path().join("node.crt")).unwrap();
    fs::write(dir.path().join("node.crt.partial"), "half").unwrap();
    assert!(Identity::load(dir.path()).unwrap().is_none());
    identity(&authority(), Role::Worker)
        .save(dir.path())
        .unwrap();
    assert!(Identity::load(dir.path()).unwrap().is_some());
}

#[test]
fn a_damaged_identity_file_is_named_with_what_to_do() {
    for name in ["node.key", "node.crt", "ca.crt"] {
        for contents in [&b""[..], b"garbage", &[0x30; 70_000]] {
            let dir = tempfile::tempdir().unwrap();
            identity(&authority(), Role::Worker)
                .save(dir.path())
                .unwrap();
            fs::write(dir.path().join(name), contents).unwrap();
            let error = Identity::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            assert!(!error.contains('\n'));
        }
    }
    for name in ["node.key", "ca.crt"] {
        let dir = tempfile::tempdir().unwrap();
        identity(&authority(), Role::Worker)
            .save(dir.path())
            .unwrap();
        fs::remove_file(dir.path().join(name)).unwrap();
        let error = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("missing"), "{error}");
    }
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    identity(&authority(), Role::Worker)
        .save(dir.path())
        .unwrap();
    let path = dir.path().join("node.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Identity::load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("0640") && error.contains("chmod 600"),
        "{error}"
    );
}

#[test]
fn the_key_of_one_node_with_the_certificate_of_another_is_refused() {
    let authority = authority();
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    identity(&authority, Role::Worker).save(one.path()).unwrap();
    identity(&authority, Role::Worker)
        .save(other.path())
        .unwrap();
    fs::copy(other.path().join("node.key"), one.path().join("node.key")).unwrap();
    let error = Identity::load(one.path()).unwrap_err().to_string();
    assert!(error.contains("another key"), "{error}");
}

#[test]
fn secrets_are_not_printed() {
    let authority = authority();
    let identity = identity(&authority, Role::Manager);
    let token = JoinToken {
        digest: authority.digest(),
        secret: [0xab; 16],
    };
    let printed = format!("{authority:?} {identity:?} {token:?}");
    assert!(!printed.contains("171"), "{printed}");
    let secret = token.to_string().rsplit('-').next().unwrap().to_owned();
    assert!(!printed.contains(&secret));
    let key = identity.key().to_der();
    assert!(!printed.contains(&format!("{:?}", &key[36..44]).replace(['[', ']'], "")));
}

#[test]
fn a_refused_token_says_what_is_wrong_and_what_a_token_looks_like() {
    let token = JoinToken {
        digest: CaDigest([1; 32]),
        secret: [2; 16],
    };
    let text = token.to_string();
    let cases = [
        (String::new(), TokenError::Prefix),
        ("SWMTKN-1-abc-def".into(), TokenError::Prefix),
        (text.replace("WFTKN-1-", "WFTKN-2-"), TokenError::Version),
        (
            format!("{text}a"),
            TokenError::Length {
                found: 88,
                expected: 87,
            },
        ),
        (
            text[..86].into(),
            TokenError::Length {
                found: 86,
                expected: 87,
            },
        ),
        (text.to_uppercase(), TokenError::Character),
        (format!("{}1", &text[..86]), TokenError::Character),
        (format!("{}b", &text[..86]), TokenError::Character),
        (
            text.replacen("ae", "é", 1).replacen('a', "aa", 1),
            TokenError::Character,
        ),
    ];
    for (bad, expected) in cases {
        let error = bad.parse::<JoinToken>().unwrap_err();
        assert_eq!(error, expected, "{bad}");
        assert!(error.to_string().contains("WFTKN-1-<digest"), "{error}");
    }
}

proptest! {
    #[test]
    fn a_written_token_is_read_back(digest: [u8; 32], secret: [u8; 16]) {
        let token = JoinToken { digest: CaDigest(digest), secret };
        prop_assert_eq!(token.to_string().parse(), Ok(token));
    }

    #[test]
    fn a_text_is_a_token_in_one_way_only(text in "WFTKN-1-[a-z2-7]{52}-[a-z2-7]{26}") {
        if let Ok(token) = text.parse::<JoinToken>() {
            prop_assert_eq!(token.to_string(), text);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(WFTKN-1-)?\\PC{0,90}") {
        let _ = text.parse::<JoinToken>();
    }

    #[test]
    fn no_bytes_make_the_certificate_readers_panic(bytes: Vec<u8>) {
        prop_assert!(NodeFacts::read(&bytes).is_err());
        prop_assert!(CaFacts::read(&bytes).is_err());
        prop_assert!(Authority::requester(&bytes).is_err());
    }
}
