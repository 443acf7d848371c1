use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_assert_ne, proptest};

use super::*;
use crate::secret::Secret;

fn keys(epoch: u32) -> PrivacyKeys {
    PrivacyKeys { epoch, hash: Secret::new([7; 32]), encrypt: Secret::new([9; 64]) }
}

fn app(text: &str) -> AppId {
    text.parse().unwrap()
}

/// RFC 4231 test case 2, through the same type that hashes ids.
#[test]
fn the_hash_is_hmac_sha256() {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(b"Jefe").unwrap();
    mac.update(b"what do ya want for nothing?");
    assert_eq!(
        hex::encode(mac.finalize().into_bytes()),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

/// Computed outside with Python's `hmac` over `user_id\0default/shop\0\0ada` under 32 bytes of 7.
#[test]
fn a_user_id_has_the_same_hash_for_ever() {
    assert_eq!(hash_user_id(&app("default/shop"), &keys(3), "ada"), "u3_b01223251b2a2f17b0329b2cb630ccac");
}

/// Computed outside with Python's `cryptography` (AESSIV) over `device_id\0default/shop\0\0` under 64 bytes of 9.
#[test]
fn a_device_id_has_the_same_cipher_text_for_ever() {
    let sealed = Sealer::new(&app("default/shop"), &keys(1)).seal(DEVICE_ID, "", "device-1");
    assert_eq!(sealed, "d1_7w4TBsfZIF9VCoMiu5At3FixlTUO_ftu");
}

#[test]
fn equal_values_for_two_purposes_do_not_look_equal() {
    let keys = keys(1);
    let (shop, other) = (app("default/shop"), app("default/other"));
    let hash = |owner, purpose, path| {
        let text = Sealer::new(owner, &keys).hash(purpose, path, "same");
        text.rsplit_once('_').unwrap().1.to_owned()
    };
    let hashes = [
        hash(&shop, USER_ID, ""),
        hash(&other, USER_ID, ""),
        hash(&shop, ANONYMOUS_ID, ""),
        hash(&shop, DEVICE_ID_HASH, ""),
        hash(&shop, FIELD_HASH, "a"),
        hash(&shop, FIELD_HASH, "b"),
    ];
    let distinct: std::collections::BTreeSet<_> = hashes.iter().collect();
    assert_eq!(distinct.len(), hashes.len());
}

#[test]
fn opens_only_its_own_and_unchanged_values() {
    let shop = app("default/shop");
    let keys = keys(2);
    let sealed = Sealer::new(&shop, &keys).seal(DEVICE_ID, "", "device-1");
    assert_eq!(open_device_id(&shop, &keys, &sealed).as_deref(), Ok("device-1"));
    assert_eq!(open_device_id(&app("default/other"), &keys, &sealed), Err(OpenError::Forged));
    assert_eq!(open_field(&shop, &keys, "", &sealed), Err(OpenError::NotSealed));
    assert_eq!(open_field(&shop, &keys, "", &sealed.replacen('d', "e", 1)), Err(OpenError::Forged));
    let other_epoch = PrivacyKeys { epoch: 3, ..keys.clone() };
    assert_eq!(open_device_id(&shop, &other_epoch, &sealed), Err(OpenError::OtherEpoch { epoch: 2 }));
    let other_key = PrivacyKeys { encrypt: Secret::new([8; 64]), ..keys.clone() };
    assert_eq!(open_device_id(&shop, &other_key, &sealed), Err(OpenError::Forged));
    for text in ["", "d", "d2", "d2_", "d2_!!!!", "d2_AAAA", "dx_AAAA", "device-1", "dh2_0123"] {
        assert!(open_device_id(&shop, &keys, text).is_err(), "{text}");
    }
}

#[test]
fn addresses_are_cut_to_their_network() {
    for (ip, expected) in [
        ("203.0.113.77", "203.0.113.0"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("2002:cb00:714d::1", "2002:cb00:7100::"),
        ("64:ff9b::203.0.113.77", "64:ff9b::"),
        ("::1", "::"),
    ] {
        assert_eq!(network_of(ip.parse().unwrap()).to_string(), expected, "{ip}");
    }
}

#[test]
fn a_truncated_text_is_never_whole() {
    for (text, expected) in
        [("Ada", "A"), ("é1", "é"), ("A", ""), ("", ""), ("203.0.113.77", "203.0.113.0"), (" ::1 ", "::")]
    {
        assert_eq!(truncate(text), expected);
    }
}

proptest! {
    #[test]
    fn whatever_is_sealed_can_be_opened_and_equal_values_look_equal(one in any::<String>(), other in any::<String>()) {
        let (shop, keys) = (app("default/shop"), keys(1));
        let seal = |text: &str| Sealer::new(&shop, &keys).seal(DEVICE_ID, "", text);
        prop_assert_eq!(open_device_id(&shop, &keys, &seal(&one)).unwrap(), one.clone());
        prop_assert_eq!(seal(&one), seal(&one));
        if one == other {
            prop_assert_eq!(seal(&one), seal(&other));
        } else {
            prop_assert_ne!(seal(&one), seal(&other));
        }
    }

    #[test]
    fn a_changed_byte_is_noticed(text in "[ -~]{1,40}", at in any::<proptest::sample::Index>(), flip in 1_u8..) {
        let (shop, keys) = (app("default/shop"), keys(1));
        let sealed = Sealer::new(&shop, &keys).seal(DEVICE_ID, "", &text);
        let mut bytes = URL_SAFE_NO_PAD.decode(&sealed[3..]).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let changed = format!("d1_{}", URL_SAFE_NO_PAD.encode(bytes));
        prop_assert_eq!(open_device_id(&shop, &keys, &changed), Err(OpenError::Forged));
    }

    #[test]
    fn any_text_is_opened_or_refused(text in any::<String>()) {
        let opened = open_device_id(&app("default/shop"), &keys(1), &text);
        prop_assert!(opened.is_err());
    }
}
