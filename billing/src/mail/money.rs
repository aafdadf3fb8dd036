//! Amounts as people read them.

/// Without minor units: the amount is in whole units (docs.stripe.com/currencies, "Zero-decimal currencies").
const ZERO_DECIMALS: [&str; 15] =
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"];

/// Thousandths (docs.stripe.com/currencies, "Three-decimal currencies").
const THREE_DECIMALS: [&str; 5] = ["bhd", "jod", "kwd", "omr", "tnd"];

/// Without minor units too, but told in hundredths as before they lost them (docs.stripe.com/currencies, "Special cases").
const WHOLE_IN_HUNDREDTHS: [&str; 2] = ["isk", "ugx"];

/// An amount in the minor units that Stripe tells it in, for example `1,234.50 USD`, `500 JPY`, `5.124 KWD`.
pub fn amount(minor: i64, currency: &str) -> String {
    let code = currency.trim().to_ascii_lowercase();
    let is_in = |list: &[&str]| list.contains(&&*code);
    let decimals = if is_in(&ZERO_DECIMALS) {
        0
    } else if is_in(&THREE_DECIMALS) {
        3
    } else {
        2
    };
    let unit = 10_u64.pow(decimals);
    let (whole, rest) = (minor.unsigned_abs() / unit, minor.unsigned_abs() % unit);
    let sign = if minor < 0 { "-" } else { "" };
    let whole = grouped(whole);
    let code = code.to_ascii_uppercase();
    if decimals == 0 || (rest == 0 && is_in(&WHOLE_IN_HUNDREDTHS)) {
        return format!("{sign}{whole} {code}");
    }
    format!("{sign}{whole}.{rest:0width$} {code}", width = decimals as usize)
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_amount_has_the_decimals_of_its_currency() {
        for (minor, currency, text) in [
            (1900, "usd", "19.00 USD"),
            (5, "eur", "0.05 EUR"),
            (123_456_789, "usd", "1,234,567.89 USD"),
            (500, "jpy", "500 JPY"),
            (1900, "KRW", "1,900 KRW"),
            (5124, "kwd", "5.124 KWD"),
            (70, "tnd", "0.070 TND"),
            (500, "ugx", "5 UGX"),
            (1000, "isk", "10 ISK"),
            (1045, "isk", "10.45 ISK"),
            (0, "usd", "0.00 USD"),
            (-250, "usd", "-2.50 USD"),
            (i64::MIN, "jpy", "-9,223,372,036,854,775,808 JPY"),
        ] {
            assert_eq!(amount(minor, currency), text);
        }
    }

    proptest! {
        /// Whatever the currency: nothing of the amount is lost.
        #[test]
        fn the_digits_of_an_amount_are_its_minor_units(minor in any::<i64>(), currency in "usd|jpy|kwd") {
            let text = amount(minor, &currency);
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            prop_assert_eq!(digits.parse::<u64>().expect("digits"), minor.unsigned_abs());
            prop_assert_eq!(text.starts_with('-'), minor < 0);
        }
    }
}
