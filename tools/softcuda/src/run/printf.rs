//! `printf` from kernels: the format string and the packed arguments that nvcc passes to `vprintf`.

/// Reads a C string; empty where it cannot be read.
pub fn string(peek: impl Fn(u64, usize) -> Option<u64>, mut address: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(byte) = peek(address, 1) {
        if byte == 0 || bytes.len() > 4096 {
            break;
        }
        bytes.push(byte as u8);
        address += 1;
    }
    bytes
}

/// The text, and the number of arguments printed. Arguments are packed as C would: 4 bytes for ints, 8 for doubles,
/// pointers and 64-bit integers, each aligned to its size.
pub fn format(
    peek: impl Fn(u64, usize) -> Option<u64> + Copy,
    format: u64,
    values: u64,
) -> Option<(Vec<u8>, u32)> {
    let format = string(peek, format);
    let mut out = Vec::new();
    let mut at = values;
    let mut count = 0;
    let mut next = |bytes: u64| {
        at = at.next_multiple_of(bytes);
        let value = peek(at, bytes as usize);
        at += bytes;
        count += 1;
        value
    };
    let mut chars = format.iter().copied().peekable();
    while let Some(c) = chars.next() {
        if c != b'%' {
            out.push(c);
            continue;
        }
        let (mut minus, mut plus, mut space, mut zero, mut alternate) = (false, false, false, false, false);
        while let Some(&flag) = chars.peek() {
            match flag {
                b'-' => minus = true,
                b'+' => plus = true,
                b' ' => space = true,
                b'0' => zero = true,
                b'#' => alternate = true,
                _ => break,
            }
            chars.next();
        }
        let number = |chars: &mut std::iter::Peekable<_>, next: &mut dyn FnMut(u64) -> Option<u64>| {
            let mut value = None;
            if chars.peek() == Some(&b'*') {
                chars.next();
                return next(4).map(|v| v as i32);
            }
            while let Some(&d @ b'0'..=b'9') = chars.peek() {
                value = Some((value.unwrap_or(0i32) * 10 + i32::from(d - b'0')).min(4096));
                chars.next();
            }
            value
        };
        let mut width = number(&mut chars, &mut next).unwrap_or(0);
        if width < 0 {
            minus = true;
            width = -width;
        }
        let mut precision = None;
        if chars.peek() == Some(&b'.') {
            chars.next();
            precision = Some(number(&mut chars, &mut next).unwrap_or(0).max(0) as usize);
        }
        let mut long = 0;
        while let Some(&m) = chars.peek() {
            match m {
                b'l' | b'j' | b'z' | b't' => long += 1,
                b'h' => {}
                _ => break,
            }
            chars.next();
        }
        let Some(conversion) = chars.next() else { break };
        let sign = |negative: bool| match (negative, plus, space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        let (prefix, body): (String, String) = match conversion {
            b'%' => {
                out.push(b'%');
                continue;
            }
            b'd' | b'i' => {
                let value = if long > 0 {
                    next(8)? as i64
                } else {
                    i64::from(next(4)? as i32)
                };
                (sign(value < 0).into(), value.unsigned_abs().to_string())
            }
            b'u' => (String::new(), next(if long > 0 { 8 } else { 4 })?.to_string()),
            b'x' | b'X' | b'o' => {
                let value = next(if long > 0 { 8 } else { 4 })?;
                let body = match conversion {
                    b'x' => format!("{value:x}"),
                    b'X' => format!("{value:X}"),
                    _ => format!("{value:o}"),
                };
                let prefix = match (alternate && value != 0, conversion) {
                    (true, b'x') => "0x",
                    (true, b'X') => "0X",
                    (true, b'o') => "0",
                    _ => "",
                };
                (prefix.into(), body)
            }
            b'p' => ("0x".into(), format!("{:x}", next(8)?)),
            b'c' => (String::new(), char::from(next(4)? as u8).to_string()),
            b's' => {
                let mut text = string(peek, next(8)?);
                text.truncate(precision.unwrap_or(usize::MAX));
                (String::new(), String::from_utf8_lossy(&text).into_owned())
            }
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                let value = f64::from_bits(next(8)?);
                (
                    sign(value.is_sign_negative() && !value.is_nan()).into(),
                    float(value.abs(), conversion, precision),
                )
            }
            other => {
                out.extend([b'%', other]);
                continue;
            }
        };
        let body = match precision {
            Some(p) if matches!(conversion, b'd' | b'i' | b'u' | b'x' | b'X' | b'o') && body.len() < p => {
                format!("{body:0>p$}")
            }
            _ => body,
        };
        let length = prefix.len() + body.len();
        let pad = (width as usize).saturating_sub(length);
        if !minus && !zero {
            out.extend(std::iter::repeat_n(b' ', pad));
        }
        out.extend_from_slice(prefix.as_bytes());
        if !minus && zero {
            out.extend(std::iter::repeat_n(b'0', pad));
        }
        out.extend_from_slice(body.as_bytes());
        if minus {
            out.extend(std::iter::repeat_n(b' ', pad));
        }
    }
    Some((out, count))
}

fn float(value: f64, conversion: u8, precision: Option<usize>) -> String {
    let upper = conversion.is_ascii_uppercase();
    let text = if value.is_nan() {
        "nan".into()
    } else if value.is_infinite() {
        "inf".into()
    } else {
        match conversion.to_ascii_lowercase() {
            b'e' => exponent(value, precision.unwrap_or(6)),
            b'g' => general(value, precision.unwrap_or(6).max(1)),
            _ => format!("{value:.*}", precision.unwrap_or(6)),
        }
    };
    if upper { text.to_uppercase() } else { text }
}

/// `1.5e+02`, as C writes it.
fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, power) = text.split_once('e').expect("an exponent");
    let power: i32 = power.parse().expect("a number");
    format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

/// `%g`: the shorter of the two, without zeros at the end.
fn general(value: f64, precision: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let scientific = exponent(value, precision - 1);
    let power: i32 = scientific
        .split_once('e')
        .expect("an exponent")
        .1
        .parse()
        .expect("a number");
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= precision as i32 {
        let (digits, tail) = scientific.split_once('e').expect("an exponent");
        format!("{}e{tail}", trim(digits))
    } else {
        trim(&format!(
            "{value:.*}",
            (precision as i32 - 1 - power).max(0) as usize
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(text: &str, values: &[u8]) -> String {
        let mut memory = text.as_bytes().to_vec();
        memory.push(0);
        let at = memory.len().next_multiple_of(16);
        memory.resize(at, 0);
        memory.extend_from_slice(values);
        let peek = |address: u64, bytes: usize| {
            let start = address as usize - 16;
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(memory.get(start..start + bytes)?);
            Some(u64::from_le_bytes(value))
        };
        String::from_utf8(format(peek, 16, 16 + at as u64).expect("readable").0).expect("text")
    }

    #[test]
    fn formats_as_c_does() {
        let mut values = Vec::new();
        values.extend((-7i32).to_le_bytes());
        values.extend([0; 4]);
        values.extend(1.5f64.to_le_bytes());
        assert_eq!(print("%d %f%%\n", &values), "-7 1.500000%\n");
        assert_eq!(print("[%5d]", &(-7i32).to_le_bytes()), "[   -7]");
        assert_eq!(print("[%-5d]", &(-7i32).to_le_bytes()), "[-7   ]");
        assert_eq!(print("[%05d]", &(-7i32).to_le_bytes()), "[-0007]");
        assert_eq!(print("%#x", &255u32.to_le_bytes()), "0xff");
        assert_eq!(print("%llu", &u64::MAX.to_le_bytes()), "18446744073709551615");
        assert_eq!(
            print("%g %g", &[1e-5f64.to_le_bytes(), 100.0f64.to_le_bytes()].concat()),
            "1e-05 100"
        );
        assert_eq!(print("%e", &12345.678f64.to_le_bytes()), "1.234568e+04");
        assert_eq!(print("%.2f", &2.345f64.to_le_bytes()), "2.35");
        assert_eq!(
            print("%c%c", &[65u32.to_le_bytes(), 66u32.to_le_bytes()].concat()),
            "AB"
        );
    }
}
