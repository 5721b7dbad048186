//! The bytes before a message's datum, which tell a reader the writer's schema.
//!
//! ```text
//!   Confluent        00 │ schema id, 4 bytes, big endian          │ datum
//!   single object    C3 01 │ CRC-64-AVRO, 8 bytes, little endian  │ datum
//! ```
//!
//! Where an id comes from is the registry's matter, what a datum means the decoder's.

use thiserror::Error;

const CONFLUENT_MAGIC: [u8; 1] = [0x00];
const CONFLUENT_LENGTH: usize = 5;
const SINGLE_OBJECT_MAGIC: [u8; 2] = [0xC3, 0x01];
const SINGLE_OBJECT_LENGTH: usize = 10;

/// How a message names the schema that it was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Confluent's wire format: the id that a registry gave the schema.
    Confluent {
        /// The id in the registry.
        schema_id: u32,
    },
    /// Avro's single-object encoding: the schema's fingerprint; no registry is needed.
    SingleObject {
        /// The CRC-64-AVRO fingerprint of the schema's canonical form.
        fingerprint: u64,
    },
}

impl Framing {
    /// Appends the header that the datum follows.
    pub fn write_header(&self, out: &mut Vec<u8>) {
        match self {
            Self::Confluent { schema_id } => {
                out.extend_from_slice(&CONFLUENT_MAGIC);
                out.extend_from_slice(&schema_id.to_be_bytes());
            }
            Self::SingleObject { fingerprint } => {
                out.extend_from_slice(&SINGLE_OBJECT_MAGIC);
                out.extend_from_slice(&fingerprint.to_le_bytes());
            }
        }
    }
}

/// A message's value, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framed<'a> {
    /// What the header says.
    pub framing: Framing,
    /// The Avro datum after the header.
    pub datum: &'a [u8],
}

impl<'a> Framed<'a> {
    /// Takes a message's value apart.
    ///
    /// # Errors
    /// When the value starts like neither framing or ends within the header.
    pub fn parse(message: &'a [u8]) -> Result<Self, FramingError> {
        let short = |framing, needed| FramingError::Short { framing, needed, length: message.len() };
        if let Some(rest) = message.strip_prefix(&CONFLUENT_MAGIC) {
            let (id, datum) = rest.split_first_chunk().ok_or(short("Confluent's wire format", CONFLUENT_LENGTH))?;
            Ok(Self { framing: Framing::Confluent { schema_id: u32::from_be_bytes(*id) }, datum })
        } else if let Some(rest) = message.strip_prefix(&SINGLE_OBJECT_MAGIC) {
            let (fingerprint, datum) =
                rest.split_first_chunk().ok_or(short("single-object encoding", SINGLE_OBJECT_LENGTH))?;
            Ok(Self { framing: Framing::SingleObject { fingerprint: u64::from_le_bytes(*fingerprint) }, datum })
        } else {
            Err(message.first().map_or(FramingError::Empty, |first| FramingError::Unknown { first: *first }))
        }
    }
}

/// A message's value that carries no known header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FramingError {
    /// A tombstone, or no Avro at all.
    #[error("the message's value is empty")]
    Empty,
    /// Cut within the header.
    #[error("the message's value has {length} bytes, too few for {framing}, whose header has {needed}")]
    Short {
        /// The framing that the first bytes announce.
        framing: &'static str,
        /// The header's length in bytes.
        needed: usize,
        /// The value's length in bytes.
        length: usize,
    },
    /// Neither framing.
    #[error(
        "the message's value starts with byte {first:#04x}; Confluent's wire format starts with 0x00, \
         single-object encoding with 0xc3 0x01"
    )]
    Unknown {
        /// The first byte.
        first: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(framing: Framing, datum: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        framing.write_header(&mut message);
        message.extend_from_slice(datum);
        message
    }

    #[test]
    fn headers_are_as_documented() {
        assert_eq!(framed(Framing::Confluent { schema_id: 0x0102_0304 }, b""), [0, 1, 2, 3, 4]);
        assert_eq!(
            framed(Framing::SingleObject { fingerprint: 0x0102_0304_0506_0708 }, b""),
            [0xC3, 1, 8, 7, 6, 5, 4, 3, 2, 1]
        );
    }

    #[test]
    fn a_written_header_is_read_back() {
        for framing in [Framing::Confluent { schema_id: u32::MAX }, Framing::SingleObject { fingerprint: u64::MAX - 1 }]
        {
            for datum in [&b""[..], &b"\x00\xc3\x01"[..]] {
                assert_eq!(Framed::parse(&framed(framing, datum)), Ok(Framed { framing, datum }));
            }
        }
    }

    #[test]
    fn what_is_no_header_is_named() {
        assert_eq!(Framed::parse(b""), Err(FramingError::Empty));
        for short in [&b"\x00\x00\x00\x01"[..], &b"\xc3\x01\x00\x00\x00\x00\x00\x00\x00"[..]] {
            let error = Framed::parse(short).unwrap_err();
            assert!(matches!(error, FramingError::Short { length, .. } if length == short.len()), "{error}");
        }
        for (unknown, byte) in
            [(&b"{\"callId\":1}"[..], 0x7b), (&b"\xc3\x02aaaaaaaaaaaa"[..], 0xc3), (&b"\xc3"[..], 0xc3)]
        {
            assert_eq!(Framed::parse(unknown), Err(FramingError::Unknown { first: byte }));
        }
    }
}
