use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::super::canonical::canonical;
use super::super::text::string_of;
use super::*;

/// Reads one text to its end.
fn scan(text: &str) -> Result<Option<Fault>, Syntax> {
    let mut scanner = Scanner::new(text);
    scanner.value()?;
    scanner.end()?;
    Ok(scanner.take_faults().0)
}

#[test]
fn reads_what_is_json() {
    for text in [
        "null",
        " true ",
        "[]",
        "[1 , 2]",
        "{}",
        r#"{"a":{"a":[{"a":1},{"a":2}]},"b":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}"#,
        "\"caf\u{e9} \u{1f600} \u{7f} 12345678\"",
        "\t[\r\n-0.5E+2]\n",
    ] {
        assert_eq!(scan(text), Ok(None), "{text}");
    }
}

#[test]
fn refuses_what_is_not_json() {
    for text in [
        "",
        " ",
        "nul",
        "nulls",
        "NaN",
        "Infinity",
        "-Infinity",
        "+1",
        "01",
        "1.",
        ".5",
        "0x10",
        "1 2",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[",
        "]",
        "{",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        "{a:1}",
        "{1:1}",
        "{'a':1}",
        r#"{"a":1"b":2}"#,
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\\u12\"",
        "\"a\nb\"",
        "\"12345678\0\"",
        "/* */ 1",
        "1 // one",
        "\u{feff}1",
        "[1]]",
    ] {
        assert!(scan(text).is_err(), "{text:?}");
    }
}

#[test]
fn notes_what_would_not_be_kept() {
    for (text, expected) in [
        (r#"{"a":1,"a":2}"#, Fault::DuplicateKey),
        (r#"{"a":1,"\u0061":2}"#, Fault::DuplicateKey),
        (r#"[{"x":{"ab":1,"b":2,"ab":3}}]"#, Fault::DuplicateKey),
        (r#"{"longer-than-8":1,"longer-than-9":2,"longer-than-8":3}"#, Fault::DuplicateKey),
        (r#"{"":1}"#, Fault::EmptyKey),
        (r#""\u0000""#, Fault::NulCharacter),
        (r#"{"a\u0000":1}"#, Fault::NulCharacter),
        (r#""\ud800""#, Fault::LoneSurrogate),
        (r#""\udc00""#, Fault::LoneSurrogate),
        (r#""\ud800\ud800""#, Fault::LoneSurrogate),
        (r#""\ud800x""#, Fault::LoneSurrogate),
        (r#""\ude00\ud83d""#, Fault::LoneSurrogate),
        ("[18446744073709551616]", Fault::IntegerTooLarge),
        ("[1e400]", Fault::NumberTooLarge),
        ("[1e-400]", Fault::NumberTooSmall),
        ("[0.12345678901234567890]", Fault::TooManyDigits),
        ("[9007199254740993,0.1]", Fault::MixedNumbers),
        ("[[9007199254740993],[null,0.1]]", Fault::MixedNumbers),
    ] {
        assert_eq!(scan(text), Ok(Some(expected)), "{text}");
    }
    assert_eq!(scan(r#"[{"a":9007199254740993},{"a":0.1},[9007199254740992,0.5]]"#), Ok(None));
}

#[test]
fn wide_objects_are_checked_for_duplicates_too() {
    let members = |names: &[usize]| {
        let members: Vec<_> = names.iter().map(|name| format!("\"key-{name}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    let mut names: Vec<_> = (0..PAIRWISE_KEYS_MAX * 3).rev().collect();
    assert_eq!(scan(&members(&names)), Ok(None));
    names.push(7);
    assert_eq!(scan(&members(&names)), Ok(Some(Fault::DuplicateKey)));
}

#[test]
fn keys_that_differ_only_in_the_middle_are_two_keys() {
    let members = |count: usize| {
        let members: Vec<_> = (0..count).map(|name| format!("\"same-start-{name:03}-same-end\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_eq!(digest(b"same-start-000-same-end"), digest(b"same-start-001-same-end"));
    assert_eq!(scan(&members(2)), Ok(None));
    assert_eq!(scan(&members(PAIRWISE_KEYS_MAX * 2)), Ok(None));
}

#[test]
fn keys_are_limited_in_length_and_number() {
    let key = "k".repeat(KEY_BYTES_MAX);
    assert_eq!(scan(&format!("{{\"{key}\":1}}")), Ok(None));
    assert_eq!(scan(&format!("{{\"{key}k\":1}}")), Ok(Some(Fault::KeyTooLong)));
    let objects = |count| format!("[{}1]", "{\"a\":1},".repeat(count));
    assert_eq!(scan(&objects(KEYS_MAX)), Ok(None));
    assert_eq!(scan(&objects(KEYS_MAX + 1)), Ok(Some(Fault::TooManyKeys)));
}

#[test]
fn a_depth_bomb_is_refused_at_the_limit() {
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(scan(&nested(DEPTH_MAX - 1)), Ok(None));
    for bomb in [nested(DEPTH_MAX), "[".repeat(1_000_000), "{\"a\":".repeat(1_000_000)] {
        let mut scanner = Scanner::new(&bomb);
        assert_eq!(scanner.value(), Err(Syntax::TooDeep));
        assert!(scanner.position() < DEPTH_MAX * 6);
    }
}

#[test]
fn strings_end_at_the_first_special_byte_wherever_it_stands() {
    for special in [b'"', b'\\', 0, 0x1f] {
        for length in 0..40_usize {
            for at in 0..length {
                for filler in [b'a', b' ', b'!', 0x7f, 0x80, 0xff, b'[', b']'] {
                    let mut bytes = vec![filler; length];
                    bytes[at] = special;
                    assert_eq!(plain_run(&bytes), at);
                }
            }
        }
    }
    assert_eq!(plain_run(&[0xff; 21]), 21);
}

/// JSON, nearly JSON, and texts that are neither.
fn texts() -> impl Strategy<Value = String> {
    let tokens = vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"b\"",
        "\"a.b\"",
        "\"\\u0061\"",
        "\"\\ud800\"",
        "\"\\n\"",
        "0",
        "-1",
        "1.5",
        "1e5",
        "-0",
        "1e999",
        "18446744073709551616",
        "true",
        "false",
        "null",
        " ",
        "\n",
        "\"",
        "\\",
        "é",
        "N",
    ];
    let soup = proptest::collection::vec(proptest::sample::select(tokens), 0..24).prop_map(|it| it.concat());
    prop_oneof![values(), values().prop_map(|text| text.replacen(',', "", 1)), soup, any::<String>()]
}

fn values() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        proptest::num::f64::NORMAL.prop_map(|number| format!("{number:?}")),
        proptest::num::f64::NORMAL.prop_map(|number| format!("{number:E}")),
    ];
    let text = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
    let escaped = any::<String>().prop_map(|text| {
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        format!("\"{units}\"")
    });
    let literal =
        proptest::sample::select(vec!["true", "false", "null", "{ }", "[ ]"]).prop_map(str::to_owned);
    prop_oneof![number, text.clone(), escaped, literal].prop_recursive(5, 48, 6, move |inner| {
        let space = proptest::sample::select(vec!["", " ", "\n\t"]);
        let member = (prop_oneof![Just("\"a\"".to_owned()), text.clone()], space, inner.clone())
            .prop_map(|(key, space, value)| format!("{key}{space}:{space}{value}"));
        prop_oneof![
            proptest::collection::vec(inner, 0..6).prop_map(|it| format!("[{}]", it.join(" , "))),
            proptest::collection::vec(member, 0..6).prop_map(|it| format!("{{{}}}", it.join(","))),
        ]
    })
}

/// Equal up to the spelling of numbers.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other
                || one.as_f64().zip(other.as_f64()).is_some_and(|(one, other)| {
                    one == other && one.abs() < 9_007_199_254_740_992.0 || one.to_bits() == other.to_bits()
                })
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

proptest! {
    #[test]
    fn reads_exactly_the_grammar_that_serde_json_reads(text in texts()) {
        let scanned = scan(&text);
        if scanned != Err(Syntax::TooDeep) {
            prop_assert_eq!(scanned.is_ok(), serde_json::from_str::<IgnoredAny>(&text).is_ok());
        }
    }

    #[test]
    fn what_is_kept_is_what_serde_json_reads(text in texts()) {
        if let Ok(None) = scan(&text) {
            let value: Value = serde_json::from_str(&text).unwrap();
            let canonical: Value = serde_json::from_str(&canonical(&text)).unwrap();
            prop_assert!(same(&value, &canonical), "{} {}", value, canonical);
        }
    }

    #[test]
    fn strings_mean_what_serde_json_says(text in any::<String>(), escape_all in any::<bool>()) {
        let json = if escape_all {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            format!("\"{units}\"")
        } else {
            serde_json::to_string(&text).unwrap()
        };
        prop_assert_eq!(string_of(&json).unwrap(), text);
    }
}
