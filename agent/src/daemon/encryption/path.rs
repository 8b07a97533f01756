//! The data path in the data-plane process, as the keeper uses it.

use std::io;

use weft_encrypt::esp::Spi;
use weft_encrypt::keys::SaKey;
use weft_encrypt::path::{PathSpec, PathState, SaName};

use crate::daemon::dataplane::Need;
use crate::dataplane::Place;
use crate::dataplane::client::Link;
use crate::dataplane::wire::{EspPath, KeyBytes, Request};

/// Speaks to the process in charge.
#[derive(Debug)]
pub(super) struct DataPath {
    place: Place,
    need: Need,
    link: Option<Link>,
    connections: u64,
}

impl DataPath {
    pub(super) fn new(place: Place, need: Need) -> Self {
        Self {
            place,
            need,
            link: None,
            connections: 0,
        }
    }

    /// How often a process was connected to.
    pub(super) fn connections(&self) -> u64 {
        self.connections
    }

    /// Carries exactly this; what is carried then.
    ///
    /// # Errors
    /// In one line, when the process is not there.
    pub(super) async fn want(
        &mut self,
        spec: &PathSpec,
        path: EspPath,
    ) -> Result<PathState, String> {
        self.need.set(true);
        let mut link = self.connected().await?;
        let state = link.esp(spec.clone(), path).await.map_err(said)?;
        self.link = Some(link);
        Ok(state)
    }

    /// Carries nothing.
    pub(super) fn want_nothing(&mut self) {
        self.need.set(false);
        self.link = None;
    }

    /// Accepts a key's packets.
    ///
    /// # Errors
    /// As [`want`](Self::want), or the process's reason.
    pub(super) async fn install_inbound(
        &mut self,
        name: SaName,
        key: &SaKey,
    ) -> Result<(), String> {
        let key = KeyBytes::of(key);
        self.change(&Request::InstallInbound(name, key)).await
    }

    /// Seals with a key.
    ///
    /// # Errors
    /// As [`install_inbound`](Self::install_inbound).
    pub(super) async fn switch_outbound(
        &mut self,
        name: SaName,
        key: &SaKey,
    ) -> Result<(), String> {
        let key = KeyBytes::of(key);
        self.change(&Request::SwitchOutbound(name, key)).await
    }

    /// Erases a key.
    ///
    /// # Errors
    /// As [`install_inbound`](Self::install_inbound).
    pub(super) async fn remove_inbound(&mut self, spi: Spi) -> Result<(), String> {
        self.change(&Request::RemoveInbound(spi)).await
    }

    /// Until the process is gone. Never, while there is none.
    pub(super) async fn gone(&mut self) {
        match &self.link {
            Some(link) => link.gone().await,
            None => std::future::pending().await,
        }
        self.link = None;
    }

    async fn change(&mut self, request: &Request) -> Result<(), String> {
        let mut link = self.connected().await?;
        link.change_key(request).await.map_err(said)?;
        self.link = Some(link);
        Ok(())
    }

    /// Whoever is in charge. After an error another one may be.
    async fn connected(&mut self) -> Result<Link, String> {
        match self.link.take() {
            Some(link) => Ok(link),
            None => {
                let link = self.connect().await?;
                self.connections += 1;
                Ok(link)
            }
        }
    }

    async fn connect(&self) -> Result<Link, String> {
        let link = Link::connect(&self.place.current()).await;
        let link = link.map_err(|error| format!("the data-plane process is not there: {error}"))?;
        match link.is_understood() {
            true => Ok(link),
            false => Err("the data-plane process is of another version".to_owned()),
        }
    }
}

fn said(error: io::Error) -> String {
    format!("the data-plane process: {error}")
}
