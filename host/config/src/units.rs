//! Quantities as people write them.

/// A length of time like `90s`, `15m`, `2h`, `7d`, in milliseconds.
pub fn millis(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("a duration is a number with ms, s, m, h or d, like 90s or 7d".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{digits}` is not a whole number"))?;
    number.checked_mul(unit).ok_or_else(|| "the duration is too long".to_owned())
}

/// A count like `500`, `20k`, `1.5M`.
pub fn count(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1_000.0),
        None => match text.strip_suffix('M') {
            Some(number) => (number, 1_000_000.0),
            None => {
                return text.parse().map_err(|_| format!("`{text}` is not a count, like 500, 20k or 1.5M"));
            }
        },
    };
    let wrong = || format!("`{text}` is not a count, like 500, 20k or 1.5M");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let count = number * unit;
    if !(0.0..1e15).contains(&count) {
        return Err(wrong());
    }
    Ok(count.round() as u64)
}

/// A size like `512KiB`, `64MiB`, `1GiB`, in bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("a size is a number with KiB, MiB or GiB, like 64MiB".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{digits}` is not a whole number"))?;
    number.checked_mul(unit).ok_or_else(|| "the size is too large".to_owned())
}

/// An amount of US dollars like `0.50`, in millionths.
pub fn micros(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not an amount of US dollars, like 0.50");
    let dollars: f64 = text.strip_prefix('$').unwrap_or(text).parse().map_err(|_| wrong())?;
    if !(0.0..1e12).contains(&dollars) {
        return Err(wrong());
    }
    Ok((dollars * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        assert_eq!(millis("90s"), Ok(90_000));
        assert_eq!(millis("250ms"), Ok(250));
        assert!(millis("90").is_err() && millis("-1s").is_err() && millis("999999999999d").is_err());
        assert_eq!((bytes("64MiB"), bytes("1KiB")), (Ok(64 << 20), Ok(1 << 10)));
        assert!(bytes("64").is_err() && bytes("64MB").is_err() && bytes("99999999999GiB").is_err());
        assert_eq!(count("20k"), Ok(20_000));
        assert_eq!(count("1.5M"), Ok(1_500_000));
        assert_eq!(count("500"), Ok(500));
        assert!(count("-1").is_err() && count("k").is_err() && count("NaNk").is_err());
        assert_eq!(micros("0.50"), Ok(500_000));
        assert_eq!(micros("$2"), Ok(2_000_000));
        assert!(micros("-1").is_err() && micros("NaN").is_err() && micros("x").is_err());
    }
}
