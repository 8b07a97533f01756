//! Durations as people write them: a whole number and a unit, `500ms`, `5s`, `2m`, `1h`, `90d`.

use std::time::Duration;

/// Reads a duration. The error says which form is accepted.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is not a duration; write it like 500ms, 5s, 2m, 1h or 90d");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refused()),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(refused)
}

/// Writes a duration as [`parse`] reads it, in the largest unit that needs no fraction; what is
/// below a millisecond is left out.
pub fn text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ];
    let fits = |(_, size): &&(&str, u128)| millis > 0 && millis.is_multiple_of(*size);
    match units.iter().find(fits) {
        Some((unit, size)) => format!("{}{unit}", millis / size),
        None => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit_are_read() {
        for (text, millis) in [
            ("0ms", 0),
            ("500ms", 500),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("90d", 7_776_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for wanted in ["0ms", "500ms", "5s", "90s", "2m", "1h", "90d", "1500ms"] {
            assert_eq!(text(parse(wanted).unwrap()), wanted);
        }
        assert_eq!(text(Duration::from_secs(7200)), "2h");
    }

    #[test]
    fn anything_else_is_refused_with_the_form() {
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "1.5s",
            "5 s",
            "5S",
            "99999999999999999999d",
            "1w",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("500ms, 5s, 2m"), "{error}");
        }
    }
}
