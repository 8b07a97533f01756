//! Netlink attributes (RFC 3549 section 2.3.2.1; linux/netlink.h `struct nlattr`): u16 length with
//! the header and without padding, u16 type, value, padding to four bytes. Both header fields are
//! in host order.

/// Bytes of an attribute's header.
const HEADER_LEN: usize = 4;
/// `NLA_F_NESTED`: the value is a list of attributes.
const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`: the type without its two flags.
const TYPE_MASK: u16 = 0x3fff;

/// A value that ends before it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink data")]
pub(crate) struct Malformed;

/// Appends attributes to a buffer.
#[derive(Debug, Default)]
pub(crate) struct AttrWriter {
    bytes: Vec<u8>,
    overflow: bool,
}

impl AttrWriter {
    /// An attribute with an opaque value.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.framed(kind, |writer| writer.bytes.extend_from_slice(value));
    }

    /// A big-endian `u32`.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A big-endian `u64`.
    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string, terminated by a zero byte.
    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        self.framed(kind, |writer| {
            writer.bytes.extend_from_slice(value.as_bytes());
            writer.bytes.push(0);
        });
    }

    /// A list of attributes.
    pub(crate) fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        self.framed(kind | NESTED, content);
    }

    /// Attributes as they were read.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes; none when an attribute was longer than its 16-bit length can say.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (!self.overflow).then_some(self.bytes)
    }

    fn framed(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        content(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(len) => self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// An attribute as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attr<'a> {
    /// Its type, without flags.
    pub(crate) kind: u16,
    /// Its value, without padding.
    pub(crate) value: &'a [u8],
}

impl<'a> Attr<'a> {
    /// The value as a big-endian `u32`.
    ///
    /// # Errors
    /// [`Malformed`] when it has another length.
    pub(crate) fn u32(&self) -> Result<u32, Malformed> {
        self.value
            .try_into()
            .map(u32::from_be_bytes)
            .map_err(|_| Malformed)
    }

    /// The value as a big-endian `u16`.
    ///
    /// # Errors
    /// [`Malformed`] when it has another length.
    pub(crate) fn u16(&self) -> Result<u16, Malformed> {
        self.value
            .try_into()
            .map(u16::from_be_bytes)
            .map_err(|_| Malformed)
    }

    /// The value as a byte.
    ///
    /// # Errors
    /// [`Malformed`] when it has another length.
    pub(crate) fn u8(&self) -> Result<u8, Malformed> {
        match *self.value {
            [byte] => Ok(byte),
            _ => Err(Malformed),
        }
    }

    /// The value as a big-endian `u64`.
    ///
    /// # Errors
    /// [`Malformed`] when it has another length.
    pub(crate) fn u64(&self) -> Result<u64, Malformed> {
        self.value
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| Malformed)
    }

    /// The value as a string, up to its first zero byte; what is not UTF-8 is replaced.
    pub(crate) fn string(&self) -> String {
        let text = self
            .value
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// The value as a list of attributes.
    pub(crate) fn nested(&self) -> Attrs<'a> {
        Attrs::new(self.value)
    }
}

/// Reads attributes one after the other; ends after the first malformed one.
#[derive(Clone, Debug)]
pub(crate) struct Attrs<'a> {
    rest: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// A list of attributes.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of a type.
    ///
    /// # Errors
    /// [`Malformed`] when something before it is.
    pub(crate) fn find(self, kind: u16) -> Result<Option<Attr<'a>>, Malformed> {
        for attr in self {
            let attr = attr?;
            if attr.kind == kind {
                return Ok(Some(attr));
            }
        }
        Ok(None)
    }

    fn split(&mut self) -> Option<Attr<'a>> {
        let (header, _) = self.rest.split_first_chunk::<HEADER_LEN>()?;
        let [len_low, len_high, kind_low, kind_high] = *header;
        let len = usize::from(u16::from_ne_bytes([len_low, len_high]));
        let kind = u16::from_ne_bytes([kind_low, kind_high]) & TYPE_MASK;
        let value = self.rest.get(HEADER_LEN..len)?;
        // The last attribute may come without its padding.
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Attr { kind, value })
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let attr = self.split();
        if attr.is_none() {
            self.rest = &[];
        }
        Some(attr.ok_or(Malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = AttrWriter::default();
        writer.string(1, "weft");
        writer.nested(2, |inner| {
            inner.u32(7, 0x0102_0304);
            inner.u64(8, 5);
        });
        let bytes = writer.finish().unwrap();
        let attrs: Vec<Attr<'_>> = Attrs::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(attrs.len(), 2);
        assert_eq!(attrs[0].string(), "weft");
        assert_eq!(attrs[1].kind, 2);
        assert_eq!(
            attrs[1].nested().find(7).unwrap().unwrap().u32(),
            Ok(0x0102_0304)
        );
        assert_eq!(attrs[1].nested().find(8).unwrap().unwrap().u64(), Ok(5));
        assert_eq!(attrs[1].nested().find(9), Ok(None));
    }

    #[test]
    fn an_attribute_too_long_for_its_length_is_an_error() {
        let mut writer = AttrWriter::default();
        writer.bytes(1, &[0; 65_532]);
        assert_eq!(writer.finish(), None);
    }

    #[test]
    fn a_length_shorter_than_the_header_ends_the_list() {
        let bytes = [2, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(Attrs::new(&bytes).collect::<Vec<_>>(), [Err(Malformed)]);
    }

    proptest! {
        #[test]
        fn random_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let count = Attrs::new(&bytes).count();
            prop_assert!(count <= bytes.len() / HEADER_LEN + 1);
        }

        #[test]
        fn any_value_comes_back(
            values in prop::collection::vec(
                (1u16..100, prop::collection::vec(any::<u8>(), 0..40)),
                0..20,
            ),
        ) {
            let mut writer = AttrWriter::default();
            for (kind, value) in &values {
                writer.bytes(*kind, value);
            }
            let bytes = writer.finish().unwrap();
            let read: Vec<(u16, Vec<u8>)> = Attrs::new(&bytes)
                .map(|attr| attr.map(|a| (a.kind, a.value.to_vec())).unwrap())
                .collect();
            prop_assert_eq!(read, values);
        }
    }
}
