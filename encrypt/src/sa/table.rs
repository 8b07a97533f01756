//! All inbound associations of a data path.

use std::collections::BTreeMap;

use super::{InboundSa, Opened};
use crate::esp::{Spi, read_header};
use crate::{InboundCounters, Refusal};

/// Most associations in one table: eight for each of 8,192 peers, many times what a cluster has.
pub const MAX_ASSOCIATIONS: usize = 65_536;

/// Inbound associations by SPI, with counters for each and for what belongs to none.
#[derive(Debug, Default)]
pub struct InboundTable {
    associations: BTreeMap<Spi, (InboundSa, InboundCounters)>,
    strays: InboundCounters,
}

/// Why an association was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// The SPI is taken.
    #[error("spi {spi} belongs to another association: a free one is needed")]
    SpiTaken {
        /// The SPI.
        spi: Spi,
    },
    /// The table is full.
    #[error("table holds {MAX_ASSOCIATIONS} associations already, the most it takes")]
    Full,
}

impl InboundTable {
    /// An empty table: refuses everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an association in. From now on its packets are opened.
    ///
    /// # Errors
    /// See [`InsertError`]; then the association is dropped and the table is as it was.
    pub fn insert(&mut self, association: InboundSa) -> Result<(), InsertError> {
        let spi = association.spi();
        if self.associations.contains_key(&spi) {
            return Err(InsertError::SpiTaken { spi });
        }
        if self.associations.len() >= MAX_ASSOCIATIONS {
            return Err(InsertError::Full);
        }
        self.associations
            .insert(spi, (association, InboundCounters::default()));
        Ok(())
    }

    /// Drops an association and erases its key; returns what it had counted.
    pub fn remove(&mut self, spi: Spi) -> Option<InboundCounters> {
        self.associations.remove(&spi).map(|(_, counters)| counters)
    }

    /// Opens a packet, from SPI to ICV, where it is, and counts it. Returns whose it is as well.
    ///
    /// # Errors
    /// As [`InboundSa::open`].
    pub fn open(&mut self, packet: &mut [u8]) -> Result<(Spi, Opened), Refusal> {
        let Some(header) = read_header(packet) else {
            return Err(stray(&mut self.strays, Refusal::BadLength));
        };
        let found =
            Spi::new(header.spi).and_then(|spi| Some((spi, self.associations.get_mut(&spi)?)));
        let Some((spi, (association, counters))) = found else {
            return Err(stray(&mut self.strays, Refusal::UnknownSpi));
        };
        match association.open(packet) {
            Ok(opened) => {
                counters.opened(opened.payload.len());
                Ok((spi, opened))
            }
            Err(cause) => Err(stray(counters, cause)),
        }
    }

    /// Counts a packet of this association that was opened and then refused, for its payload.
    pub fn refuse(&mut self, spi: Spi, cause: Refusal) {
        match self.associations.get_mut(&spi) {
            Some((_, counters)) => counters.refused(cause),
            None => self.strays.refused(cause),
        }
    }

    /// What one association has counted.
    pub fn counters(&self, spi: Spi) -> Option<InboundCounters> {
        self.associations.get(&spi).map(|(_, counters)| *counters)
    }

    /// What belonged to no association.
    pub fn strays(&self) -> InboundCounters {
        self.strays
    }

    /// The SPIs in use.
    pub fn spis(&self) -> impl Iterator<Item = Spi> + '_ {
        self.associations.keys().copied()
    }
}

fn stray(counters: &mut InboundCounters, cause: Refusal) -> Refusal {
    counters.refused(cause);
    cause
}
