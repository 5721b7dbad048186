//! Whole numbers, however JSON writes them: `77`, `77.0`, `7.7e1`, and `"77"` too.
//!
//! They are read digit by digit: a floating-point number would make 9007199254740993 another one.

use std::borrow::Cow;

use crate::core::leg::{Kind, Value};

/// No field's number and no id has as many digits, and `1e999999999` must not become so long a text.
const DIGITS_MAX: usize = 100;

/// A whole number as a field of this kind holds it: an instant of 0 has not come. `None` where none may be so large.
#[inline]
pub(super) fn held(kind: Kind, number: i64) -> Option<Value<'static>> {
    match (kind, number) {
        (Kind::Instant, 0) => Some(Value::Null),
        _ => kind.holds(number).then_some(Value::Integer(number)),
    }
}

/// The same from the JSON text of a number, or of a text that is one.
pub(super) fn held_in(kind: Kind, json: &str) -> Option<Value<'static>> {
    let number = if json.starts_with('"') {
        let text: Cow<'_, str> = serde_json::from_str(json).ok()?;
        digits(text.trim())?.parse()
    } else {
        digits(json)?.parse()
    };
    held(kind, number.ok()?)
}

/// The digits of a whole number, behind a minus where it is below zero; `None` for anything else.
pub(super) fn digits(number: &str) -> Option<Cow<'_, str>> {
    let (sign, unsigned) = number.strip_prefix('-').map_or(("", number), |unsigned| ("-", unsigned));
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) if is_digits(fraction) => (whole, fraction),
        Some(_) => return None,
        None => (mantissa, ""),
    };
    if !is_digits(whole) || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    if unsigned.len() == whole.len() && whole != "0" {
        return Some(Cow::Borrowed(number));
    }
    // 0.digits × 10^point
    let digits = [whole, fraction].concat();
    let (significant, point) = (digits.trim_end_matches('0'), i64::try_from(whole.len()).ok()? + exponent);
    if significant.is_empty() {
        return Some(Cow::Borrowed("0"));
    }
    let length = usize::try_from(point).ok().filter(|length| (significant.len()..=DIGITS_MAX).contains(length))?;
    let padded = format!("{significant:0<length$}");
    Some(Cow::Owned([sign, padded.trim_start_matches('0')].concat()))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An exponent; one that is longer than any sensible number is as good as the largest.
fn exponent_of(text: &str) -> Option<i64> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (-1, unsigned),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let largest = i64::from(i32::MAX);
    is_digits(unsigned).then(|| sign * unsigned.parse().map_or(largest, |exponent: i64| exponent.min(largest)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Option<Value<'static>> {
        held_in(Kind::Integer, json)
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for written in
            ["77", "77.0", "77.000", "7.7e1", "7.7E+1", "0.77e2", "770e-1", "0.00077e5", r#""77""#, r#"" 77.0 ""#]
        {
            assert_eq!(read(written), Some(Value::Integer(77)), "{written}");
        }
        for written in ["0", "-0", "0.0", "-0.0", "0e999999999999999999999", "0E-3", r#""0""#, r#""-0""#] {
            assert_eq!(read(written), Some(Value::Integer(0)), "{written}");
            assert_eq!(held_in(Kind::Instant, written), Some(Value::Null), "{written}");
        }
        assert_eq!(read("-1.5e3"), Some(Value::Integer(-1_500)));
        assert_eq!(held_in(Kind::Instant, "1795780050000.0"), Some(Value::Integer(1_795_780_050_000)));
        assert_eq!(read(r#""\u0037\t""#), Some(Value::Integer(7)), "escapes");
    }

    #[test]
    fn anything_else_is_none() {
        for written in [
            "1.5",
            "7.7",
            "1e-1",
            "150e-2",
            "1e400",
            "1e16",
            "1e",
            "1e+",
            "1.",
            ".5",
            "+7",
            "07",
            "0x7",
            "1_000",
            "7 7",
            "--7",
            "-",
            "",
            "NaN",
            "Infinity",
            "null",
            "true",
            "[7]",
            r#""""#,
            r#"" ""#,
            r#""seven""#,
            r#""7 7""#,
            r#""07""#,
            r#""+7""#,
            r#""٧""#,
            r#""1e999999999999999999999""#,
            "\"7",
            r#""\ud800""#,
            "9007199254740993",
            "-9007199254740992",
            "90071992547409910e-1e",
        ] {
            assert_eq!(read(written), None, "{written}");
        }
    }

    #[test]
    fn what_is_large_is_exact() {
        assert_eq!(digits("123456789012345678901234567890.0").as_deref(), Some("123456789012345678901234567890"));
        assert_eq!(digits("9007199254740993.0").as_deref(), Some("9007199254740993"));
        assert_eq!(digits("9.007199254740993e15").as_deref(), Some("9007199254740993"));
        assert_eq!(digits("9.0071992547409931e15"), None);
        assert_eq!(digits("1e99").map(|digits| digits.len()), Some(100));
        assert_eq!(digits("1e100"), None);
    }

    proptest! {
        /// Digits with a point and an exponent anywhere are the number that they were made of.
        #[test]
        fn the_point_may_be_anywhere(number in -9_007_199_254_740_991_i64..=9_007_199_254_740_991, shift in 0..25_usize, zeros in 0..5_usize) {
            let sign = if number < 0 { "-" } else { "" };
            let digits = format!("{:0>width$}{}", number.unsigned_abs(), "0".repeat(zeros), width = shift + 1);
            let (whole, fraction) = digits.split_at(digits.len() - shift);
            let whole = if whole.trim_start_matches('0').is_empty() { "0" } else { whole.trim_start_matches('0') };
            let fraction = if fraction.is_empty() { String::new() } else { format!(".{fraction}") };
            let exponent = shift as i64 - zeros as i64;
            for written in [format!("{sign}{whole}{fraction}e{exponent}"), format!("\"{sign}{whole}{fraction}E{exponent}\"")] {
                prop_assert_eq!(read(&written), Some(Value::Integer(number)), "{}", written);
            }
        }

        #[test]
        fn no_text_is_too_odd(text in "[-+0-9.eE\" ]{0,30}") {
            let _ = (read(&text), digits(&text));
        }

        /// Where a double is exact, it says the same.
        #[test]
        fn what_is_read_is_what_a_double_says(text in "-?(0|[1-9][0-9]{0,5})(\\.[0-9]{1,4})?([eE][-+]?[0-9])?") {
            let double: f64 = text.parse().unwrap();
            let expected = (double.fract() == 0.0 && double.abs() <= 9_007_199_254_740_991.0).then_some(Value::Integer(double as i64));
            prop_assert_eq!(read(&text), expected, "{}", text);
        }
    }
}
