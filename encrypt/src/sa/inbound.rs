//! The opening side.

use std::ops::Range;

use crate::Refusal;
use crate::aead::Cipher;
use crate::esp::{
    HEADROOM, ICV, NEXT_HEADER_DUMMY, NEXT_HEADER_UDP, Spi, read_header, read_trailer,
};
use crate::keys::SaKey;
use crate::replay::Window;

/// An inbound security association: opens one peer's packets of one key, each once.
#[derive(Debug)]
pub struct InboundSa {
    spi: Spi,
    /// For the process that takes over ([`InboundSa::resume`]), and nobody else.
    key: SaKey,
    cipher: Cipher,
    window: Window,
}

/// A packet that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Where in the packet its payload is: UDP header and what follows it.
    pub payload: Range<usize>,
    /// Its sequence number.
    pub sequence: u64,
}

impl InboundSa {
    /// An association that has received nothing.
    ///
    /// A key must not be given to a second one while packets sealed with it may come again: the new
    /// replay window would let them pass.
    pub fn new(spi: Spi, key: SaKey) -> Self {
        Self::resume(spi, key, Window::new())
    }

    /// An association that goes on where another process, which must have stopped, left off.
    pub fn resume(spi: Spi, key: SaKey, window: Window) -> Self {
        Self {
            spi,
            cipher: Cipher::new(&key),
            key,
            window,
        }
    }

    /// Key and window, for [`InboundSa::resume`] in the process that takes over.
    pub(crate) fn parts(&self) -> (&SaKey, &Window) {
        (&self.key, &self.window)
    }

    /// Opens a packet, from SPI to ICV, where it is (RFC 4303 section 3.4).
    ///
    /// Replay is looked up before the ICV is checked and written down after it (section 3.4.3), so
    /// a forged packet moves no window. After an error the content of the packet is unspecified.
    ///
    /// # Errors
    /// See [`Refusal`]: all but [`Refusal::BadInner`].
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Opened, Refusal> {
        let header = read_header(packet).ok_or(Refusal::BadLength)?;
        if header.spi != self.spi.get() {
            return Err(Refusal::UnknownSpi);
        }
        let sequence = self
            .window
            .reconstruct(header.sequence_low)
            .ok_or(Refusal::TooOld)?;
        self.window.check(sequence)?;
        let (rest, icv) = packet
            .split_last_chunk_mut::<ICV>()
            .ok_or(Refusal::BadLength)?;
        let ciphertext = rest.get_mut(HEADROOM..).ok_or(Refusal::BadLength)?;
        if self
            .cipher
            .open(header.spi, sequence, header.iv, ciphertext, *icv)
            .is_err()
        {
            let late = self.window.is_rather_late(sequence);
            return Err(if late {
                Refusal::TooOld
            } else {
                Refusal::AuthFailed
            });
        }
        self.window.accept(sequence)?;
        let (length, next_header) = read_trailer(ciphertext).map_err(|_| Refusal::BadPadding)?;
        match next_header {
            NEXT_HEADER_UDP => Ok(Opened {
                payload: HEADROOM..HEADROOM + length,
                sequence,
            }),
            NEXT_HEADER_DUMMY => Err(Refusal::Dummy),
            _ => Err(Refusal::WrongNextHeader),
        }
    }

    /// The SPI that its packets carry.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Highest sequence number received; zero before the first.
    pub fn top(&self) -> u64 {
        self.window.top()
    }

    #[cfg(test)]
    pub(crate) fn starting_after(mut self, sequence: u64) -> Self {
        self.window.accept(sequence).unwrap();
        self
    }
}
