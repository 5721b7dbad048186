//! Reading an Avro datum whose schema is known to the code: field by field, from a slice.
//!
//! The journal is read at every start, millions of entries of it, so no tree of values is built
//! here, and nothing is allocated that the datum does not hold. It knows the types that the
//! journal's schemas use and no others; what the fields mean is the caller's matter.

use thiserror::Error;

/// What is left of a datum.
#[derive(Clone, Debug)]
pub(super) struct DatumReader<'a> {
    rest: &'a [u8],
}

/// Why a datum cannot be read. It holds no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum DatumError {
    /// It ends within a value.
    #[error("the datum ends early")]
    Short,
    /// A number of more than 64 bits, or outside its type.
    #[error("a number is out of range")]
    Range,
    /// A boolean or a union's branch that does not exist.
    #[error("a value is not one of its type")]
    Value,
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A hash, a random number or a list of them with another length.
    #[error("bytes have a wrong length")]
    Length,
    /// Something follows the last field.
    #[error("the datum goes on after its last field")]
    LeftOver,
}

impl<'a> DatumReader<'a> {
    /// A reader at the beginning of a datum.
    pub(super) fn new(datum: &'a [u8]) -> Self {
        Self { rest: datum }
    }

    /// The datum must end here.
    pub(super) fn end(&self) -> Result<(), DatumError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DatumError::LeftOver) }
    }

    /// A `long`; of an `int` too, whose bytes are the same.
    pub(super) fn long(&mut self) -> Result<i64, DatumError> {
        let mut zigzag = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(DatumError::Short)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                return Err(DatumError::Range);
            }
            zigzag |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
            }
        }
        Err(DatumError::Range)
    }

    /// A number that has to fit `N`.
    pub(super) fn number<N: TryFrom<i64>>(&mut self) -> Result<N, DatumError> {
        N::try_from(self.long()?).map_err(|_| DatumError::Range)
    }

    /// A `boolean`.
    pub(super) fn boolean(&mut self) -> Result<bool, DatumError> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DatumError::Value),
        }
    }

    /// `bytes`.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], DatumError> {
        let length = self.number()?;
        self.take(length)
    }

    /// `bytes` of a known length.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DatumError> {
        self.bytes()?.try_into().map_err(|_| DatumError::Length)
    }

    /// `bytes` that are pieces of a known length.
    pub(super) fn pieces<const N: usize>(&mut self) -> Result<&'a [[u8; N]], DatumError> {
        let (pieces, rest) = self.bytes()?.as_chunks();
        if rest.is_empty() { Ok(pieces) } else { Err(DatumError::Length) }
    }

    /// A `string`.
    pub(super) fn text(&mut self) -> Result<&'a str, DatumError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DatumError::Text)
    }

    /// A union of null and something.
    pub(super) fn nullable<T, E: From<DatumError>>(
        &mut self,
        some: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        match self.long()? {
            0 => Ok(None),
            1 => some(self).map(Some),
            _ => Err(DatumError::Value.into()),
        }
    }

    /// An array, whose items must not be empty: `item` reads each.
    pub(super) fn items<E: From<DatumError>>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let count = self.long()?;
            if count < 0 {
                // The block's length in bytes follows, for readers that skip it.
                self.long()?;
            }
            match count.unsigned_abs() {
                0 => return Ok(()),
                count => (0..count).try_for_each(|_| item(self))?,
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DatumError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DatumError::Short)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;
    use apache_avro::writer::datum::GenericDatumWriter;
    use proptest::prelude::*;

    use super::*;

    fn written(schema: &str, value: impl serde::Serialize) -> Vec<u8> {
        let schema = Schema::parse_str(schema).unwrap();
        let writer = GenericDatumWriter::builder(&schema).human_readable(false).build().unwrap();
        writer.write_ser_to_vec(&value).unwrap()
    }

    fn numbers(datum: &[u8]) -> Result<Vec<i64>, DatumError> {
        let mut numbers = Vec::new();
        let mut reader = DatumReader::new(datum);
        reader.items(|item| item.long().map(|number| numbers.push(number)))?;
        reader.end()?;
        Ok(numbers)
    }

    proptest! {
        #[test]
        fn what_the_library_writes_is_read(number: i64, int: i32, text: String, list: Vec<i64>, flag: bool, some: Option<String>) {
            let datum = written("\"long\"", number);
            prop_assert_eq!(DatumReader::new(&datum).long(), Ok(number));
            let datum = written("\"int\"", int);
            prop_assert_eq!(DatumReader::new(&datum).number(), Ok(int));
            let datum = written("\"string\"", &text);
            prop_assert_eq!(DatumReader::new(&datum).text(), Ok(text.as_str()));
            let datum = written("\"boolean\"", flag);
            prop_assert_eq!(DatumReader::new(&datum).boolean(), Ok(flag));
            let datum = written("[\"null\", \"string\"]", &some);
            prop_assert_eq!(DatumReader::new(&datum).nullable(DatumReader::text), Ok(some.as_deref()));
            let datum = written("{\"type\": \"array\", \"items\": \"long\"}", &list);
            prop_assert_eq!(numbers(&datum), Ok(list));
        }
    }

    #[test]
    fn an_array_in_several_blocks_with_and_without_their_lengths_is_read() {
        assert_eq!(numbers(&[2, 8, 3, 4, 10, 12, 0]), Ok(vec![4, 5, 6]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let damaged = |bytes: &'static [u8]| DatumReader::new(bytes);
        assert_eq!(damaged(&[0x80]).long(), Err(DatumError::Short));
        assert_eq!(damaged(&[0xff; 11]).long(), Err(DatumError::Range));
        assert_eq!(damaged(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).long(), Err(DatumError::Range));
        assert_eq!(damaged(&[1]).number::<u64>(), Err(DatumError::Range));
        assert_eq!(damaged(&[1]).bytes(), Err(DatumError::Range));
        assert_eq!(damaged(&[6, 1, 2]).bytes(), Err(DatumError::Short));
        assert_eq!(damaged(&[2, 0xff]).text(), Err(DatumError::Text));
        assert_eq!(damaged(&[2, 0]).array::<2>(), Err(DatumError::Length));
        assert_eq!(damaged(&[6, 0, 0, 0]).pieces::<2>(), Err(DatumError::Length));
        assert_eq!(damaged(&[2]).boolean(), Err(DatumError::Value));
        assert_eq!(damaged(&[4]).nullable(DatumReader::long), Err(DatumError::Value));
        assert_eq!(damaged(&[0]).end(), Err(DatumError::LeftOver));
        // 2^40 items are announced.
        assert_eq!(numbers(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]), Err(DatumError::Short));
    }
}
