//! All inbound associations of a data path.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{InboundSa, Opened};
use crate::esp::{Spi, read_header};
use crate::{InboundCounters, Refusal};

/// Most associations in one table: eight for each of 8,192 peers, many times what a cluster has.
pub const MAX_ASSOCIATIONS: usize = 65_536;

/// Inbound associations by SPI, with counters for each and for what belongs to none.
///
/// Several threads may open packets at once: each association has a lock of its own.
#[derive(Debug, Default)]
pub struct InboundTable {
    associations: BTreeMap<Spi, Mutex<Entry>>,
    strays: Mutex<InboundCounters>,
}

/// An inbound association and what it has counted.
#[derive(Debug)]
pub struct Entry {
    association: InboundSa,
    counters: InboundCounters,
}

impl Entry {
    /// Opens a packet, from SPI to ICV, where it is, and counts it.
    ///
    /// # Errors
    /// As [`InboundSa::open`].
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Opened, Refusal> {
        match self.association.open(packet) {
            Ok(opened) => {
                self.counters.opened(opened.payload.len());
                Ok(opened)
            }
            Err(cause) => {
                self.counters.refused(cause);
                Err(cause)
            }
        }
    }

    /// Counts a packet that was opened and then refused, for its payload.
    pub fn refuse(&mut self, cause: Refusal) {
        self.counters.refused(cause);
    }

    /// What it has counted.
    pub fn counters(&self) -> InboundCounters {
        self.counters
    }

    /// The association.
    pub fn association(&self) -> &InboundSa {
        &self.association
    }
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
        let entry = Entry {
            association,
            counters: InboundCounters::default(),
        };
        self.associations.insert(spi, Mutex::new(entry));
        Ok(())
    }

    /// Takes in an association that another process had, with what it has counted so far.
    ///
    /// # Errors
    /// As [`InboundTable::insert`].
    pub fn resume(
        &mut self,
        association: InboundSa,
        counters: InboundCounters,
    ) -> Result<(), InsertError> {
        let spi = association.spi();
        self.insert(association)?;
        if let Some(mut entry) = self.lock(spi) {
            entry.counters = counters;
        }
        Ok(())
    }

    /// Drops an association and erases its key; returns what it had counted.
    pub fn remove(&mut self, spi: Spi) -> Option<InboundCounters> {
        let entry = self.associations.remove(&spi)?;
        let entry = entry.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some(entry.counters)
    }

    /// The association of this SPI, for this thread alone until it is let go.
    pub fn lock(&self, spi: Spi) -> Option<MutexGuard<'_, Entry>> {
        self.associations.get(&spi).map(lock)
    }

    /// Opens a packet, from SPI to ICV, where it is, and counts it. Returns whose it is as well.
    ///
    /// # Errors
    /// As [`InboundSa::open`].
    pub fn open(&self, packet: &mut [u8]) -> Result<(Spi, Opened), Refusal> {
        let Some(header) = read_header(packet) else {
            return Err(self.stray(Refusal::BadLength));
        };
        let found = Spi::new(header.spi).and_then(|spi| Some((spi, self.lock(spi)?)));
        let Some((spi, mut entry)) = found else {
            return Err(self.stray(Refusal::UnknownSpi));
        };
        entry.open(packet).map(|opened| (spi, opened))
    }

    /// Counts a packet of this association that was opened and then refused, for its payload.
    pub fn refuse(&self, spi: Spi, cause: Refusal) {
        match self.lock(spi) {
            Some(mut entry) => entry.refuse(cause),
            None => {
                self.stray(cause);
            }
        }
    }

    /// Counts a packet that belongs to no association, and returns why.
    pub fn stray(&self, cause: Refusal) -> Refusal {
        lock(&self.strays).refused(cause);
        cause
    }

    /// Counts what another process has counted, too.
    pub fn resume_strays(&mut self, strays: InboundCounters) {
        *lock(&self.strays) = strays;
    }

    /// What one association has counted.
    pub fn counters(&self, spi: Spi) -> Option<InboundCounters> {
        self.lock(spi).map(|entry| entry.counters)
    }

    /// What belonged to no association.
    pub fn strays(&self) -> InboundCounters {
        *lock(&self.strays)
    }

    /// The SPIs in use.
    pub fn spis(&self) -> impl Iterator<Item = Spi> + '_ {
        self.associations.keys().copied()
    }
}

/// Nothing that panics is done under these locks, so there is nothing half done either.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
