//! Kafka's variable-length integers: zigzag, seven bits per byte, lowest first.

/// Why bytes are not a varint.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// The input ends inside it.
    Ends,
    /// It has more bits than its type.
    TooLong,
}

/// Appends a signed 64-bit varint; a 32-bit one has the same bytes.
pub(super) fn put(into: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        into.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    into.push((rest & 0x7f) as u8);
}

/// How many bytes [`put`] appends.
pub(super) fn len(value: i64) -> usize {
    let bits = 64 - ((value << 1) ^ (value >> 63)).leading_zeros();
    bits.max(1).div_ceil(7) as usize
}

/// Reads a 64-bit varint at `*position` and moves behind it.
pub(super) fn read_i64(from: &[u8], position: &mut usize) -> Result<i64, Malformed> {
    let raw = read(from, position, 64)?;
    Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
}

/// Reads a 32-bit varint at `*position` and moves behind it.
pub(super) fn read_i32(from: &[u8], position: &mut usize) -> Result<i32, Malformed> {
    let raw = read(from, position, 32)?;
    let raw = u32::try_from(raw).map_err(|_| Malformed::TooLong)?;
    Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
}

fn read(from: &[u8], position: &mut usize, bits: u32) -> Result<u64, Malformed> {
    let mut value = 0u64;
    let mut shift = 0;
    loop {
        let byte = *from.get(*position).ok_or(Malformed::Ends)?;
        let part = u64::from(byte & 0x7f);
        if shift >= bits || part.checked_shl(shift).is_none_or(|moved| moved >> shift != part) {
            return Err(Malformed::TooLong);
        }
        value |= part << shift;
        *position += 1;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn returns_what_was_put(long: i64, short: i32) {
            let mut bytes = Vec::new();
            put(&mut bytes, long);
            prop_assert_eq!(bytes.len(), len(long));
            put(&mut bytes, i64::from(short));
            let mut position = 0;
            prop_assert_eq!(read_i64(&bytes, &mut position), Ok(long));
            prop_assert_eq!(read_i32(&bytes, &mut position), Ok(short));
            prop_assert_eq!(position, bytes.len());
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = read_i64(&bytes, &mut 0);
            let _ = read_i32(&bytes, &mut 0);
        }
    }

    #[test]
    fn known_bytes() {
        for (value, expected) in
            [(0, &[0u8][..]), (-1, &[1]), (1, &[2]), (63, &[0x7e]), (-64, &[0x7f]), (64, &[0x80, 1]), (300, &[0xd8, 4])]
        {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(bytes, expected, "{value}");
            assert_eq!(len(value), expected.len(), "{value}");
        }
    }

    #[test]
    fn refuses_too_many_bits() {
        assert_eq!(read_i32(&[0xff, 0xff, 0xff, 0xff, 0x1f], &mut 0), Err(Malformed::TooLong));
        assert_eq!(read_i64(&[0xff; 10], &mut 0), Err(Malformed::TooLong));
        assert_eq!(read_i64(&[0x80; 11], &mut 0), Err(Malformed::TooLong));
        assert_eq!(read_i64(&[0x80; 3], &mut 0), Err(Malformed::Ends));
    }
}
