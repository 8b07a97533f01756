//! Published vectors: AES-256 of "The Galois/Counter Mode of Operation", appendix B (McGrew and
//! Viega), of "Test Cases for the use of GCM and GMAC in IPsec ESP" (draft-mcgrew-gcm-test-01; RFC 4106
//! has none of its own), and of NIST's validation program (gcmEncryptExtIV256.rsp).

use ring::aead::AES_128_GCM;

use super::*;
use crate::test_util::hex;

struct Vector {
    key: &'static str,
    nonce: &'static str,
    aad: &'static str,
    plaintext: &'static str,
    ciphertext: &'static str,
    tag: &'static str,
}

const FEFF: &str = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const VECTORS: &[Vector] = &[
    // McGrew and Viega, test case 13.
    Vector {
        key: ZERO,
        nonce: "000000000000000000000000",
        aad: "",
        plaintext: "",
        ciphertext: "",
        tag: "530f8afbc74536b9a963b4f1c4cb738b",
    },
    // Test case 14.
    Vector {
        key: ZERO,
        nonce: "000000000000000000000000",
        aad: "",
        plaintext: "00000000000000000000000000000000",
        ciphertext: "cea7403d4d606b6e074ec5d3baf39d18",
        tag: "d0d1c8a799996bf0265b98b5d48ab919",
    },
    // Test case 15.
    Vector {
        key: FEFF,
        nonce: "cafebabefacedbaddecaf888",
        aad: "",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
        ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                     8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
        tag: "b094dac5d93471bdec1a502270e3cc6c",
    },
    // Test case 16.
    Vector {
        key: FEFF,
        nonce: "cafebabefacedbaddecaf888",
        aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                     8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        tag: "76fc6ece0f4e1768cddf8853bb2d551b",
    },
    // draft-mcgrew-gcm-test-01, the AES-256 packet (SPI 4a2cbfe3, sequence number 2, no ESN).
    Vector {
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        nonce: "112233440102030405060708",
        aad: "4a2cbfe300000002",
        plaintext: "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000\
                    7002400020bf0000020405b40101040201020201",
        ciphertext: "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763\
                     748a637985771d347f0545659f14e99def842d8e",
        tag: "b335f4eecfdbf831824b4c4915956c96",
    },
    // The same, its AES-256 packet with the highest extended sequence number.
    Vector {
        key: "6c6567616c697a656d6172696a75616e61616e64646f69746265666f72656961",
        nonce: "7475726e333021696765746d",
        aad: "796b6963ffffffffffffffff",
        plaintext: "45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364\
                    65666768696a6b6c6d6e6f707172737401020201",
        ciphertext: "f97ab2aa356d8edce17644ac8c78e25dd24dedbb29ebf1b64a274b39b49c3a86\
                     4cd3d78ca4ae68a32b42458fb57dbe821dcc63b9",
        tag: "d0937ba2945f669368661a329fb4c053",
    },
    // NIST: nothing; text; additional data; both.
    Vector {
        key: "b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4",
        nonce: "516c33929df5a3284ff463d7",
        aad: "",
        plaintext: "",
        ciphertext: "",
        tag: "bdc1ac884d332457a1d2664f168c76f0",
    },
    Vector {
        key: "31bdadd96698c204aa9ce1448ea94ae1fb4a9a0b3c9d773b51bb1822666b8f22",
        nonce: "0d18e06c7c725ac9e362e1ce",
        aad: "",
        plaintext: "2db5168e932556f8089a0622981d017d",
        ciphertext: "fa4362189661d163fcd6a56d8bf0405a",
        tag: "d636ac1bbedd5cc3ee727dc2ab4a9489",
    },
    Vector {
        key: "78dc4e0aaf52d935c3c01eea57428f00ca1fd475f5da86a49c8dd73d68c8e223",
        nonce: "d79cf22d504cc793c3fb6c8a",
        aad: "b96baa8c1c75a671bfb2d08d06be5f36",
        plaintext: "",
        ciphertext: "",
        tag: "3e5d486aa2e30b22e040b85723a06e76",
    },
    Vector {
        key: "92e11dcdaa866f5ce790fd24501f92509aacf4cb8b1339d50c9c1240935dd08b",
        nonce: "ac93a1a6145299bde902f21a",
        aad: "1e0889016f67601c8ebea4943bc23ad6",
        plaintext: "2d71bcfa914e4ac045b2aa60955fad24",
        ciphertext: "8995ae2e6df3dbf96fac7b7137bae67f",
        tag: "eca5aa77d51d4a0a14d9c51e1da474ab",
    },
];

#[test]
fn the_cipher_agrees_with_published_vectors() {
    for (number, vector) in VECTORS.iter().enumerate() {
        let key = expand(&hex(vector.key).try_into().unwrap());
        let nonce: [u8; 12] = hex(vector.nonce).try_into().unwrap();
        let (salt, iv) = (*nonce.first_chunk().unwrap(), *nonce.last_chunk().unwrap());
        let mut text = hex(vector.plaintext);
        let tag = key
            .seal_in_place_separate_tag(
                super::nonce(salt, iv),
                Aad::from(hex(vector.aad)),
                &mut text,
            )
            .unwrap();
        assert_eq!(text, hex(vector.ciphertext), "vector {number}");
        assert_eq!(tag.as_ref(), hex(vector.tag), "vector {number}");
        key.open_in_place_separate_tag(
            super::nonce(salt, iv),
            Aad::from(hex(vector.aad)),
            tag,
            &mut text,
            0..,
        )
        .unwrap();
        assert_eq!(text, hex(vector.plaintext), "vector {number}");
        let mut other = hex(vector.tag);
        other[15] ^= 1;
        let mut text = hex(vector.ciphertext);
        let refused = key.open_in_place_separate_tag(
            super::nonce(salt, iv),
            Aad::from(hex(vector.aad)),
            Tag::try_from(other.as_slice()).unwrap(),
            &mut text,
            0..,
        );
        assert!(refused.is_err(), "vector {number}");
    }
}

/// The packet of draft-mcgrew-gcm-test-01 with an extended sequence number. It is of AES-128, which
/// weft does not use, so it shows nonce and AAD alone.
#[test]
fn nonce_and_aad_with_an_extended_sequence_number_agree_with_the_published_packet() {
    let key = UnboundKey::new(&AES_128_GCM, &hex("4c80cdefbb5d10da906ac73c3613a634")).unwrap();
    let (salt, iv) = (hex("2e443b68"), hex("4956ed7e3b244cfe"));
    let cipher = Cipher {
        key: Box::new(LessSafeKey::new(key)),
        salt: salt.try_into().unwrap(),
    };
    let mut text = hex(
        "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000\
         00000000045f736970045f756470037369700963796265726369747902646b00\
         0021000101020201",
    );
    let tag = cipher
        .seal(
            0x0000_4321,
            0x8765_4321_0000_0000,
            iv.try_into().unwrap(),
            &mut text,
        )
        .unwrap();
    assert_eq!(
        text,
        hex(
            "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34\
             cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce\
             61bc17d768fd9732"
        )
    );
    assert_eq!(tag.as_slice(), hex("459018148f6cbe722fd04796562dfdb4"));
}

#[test]
fn a_cipher_does_not_print_its_key() {
    let cipher = Cipher::new(&SaKey::from_bytes([0x41; KEY + SALT]));
    assert_eq!(format!("{cipher:?}"), "Cipher");
}
