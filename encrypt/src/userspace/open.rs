//! Devices and sockets: opened, or those of another process.

use std::io;
use std::net::SocketAddr;

use crate::offload::outer::Wrapper;
use crate::offload::{self, Config};
use crate::path::{Form, PathSpec};

use super::engine::Source;
use super::hand_over::HandedOver;
use super::ports::Ports;
use super::probe;
use super::socket::EspSocket;
use super::tables::Tables;
use super::tap::{PORT_LAYOUT, Tap};
use super::{PathError, StartError};

/// Source address of the frames that the kernel gets: locally administered, and not the TAP's.
const PEER_MAC: [u8; 6] = [0x02, 0x77, 0x66, 0xff, 0xff, 0xff];

/// All that threads work with.
pub(super) struct Opened {
    pub(super) tables: Tables,
    /// One for each thread.
    pub(super) pairs: Vec<(Source, EspSocket)>,
    /// How they put packets together.
    pub(super) config: Config,
}

impl Opened {
    /// From nothing, for so many threads. Ports are to be opened yet.
    pub(super) fn open(spec: &PathSpec, threads: usize) -> Result<Self, StartError> {
        let mut tables = Tables::new(spec);
        let mut taps = Vec::new();
        match spec.form {
            Form::Vxlan => {
                probe::probe().map_err(StartError::Probe)?;
                let opened = Tap::open(threads);
                taps = opened.map_err(|(what, source)| StartError::Tap { what, source })?;
            }
            Form::Port => {
                let udp = probe::probe_port().map_err(StartError::Port)?;
                tables.ports = Ports::new(threads, udp).map_err(StartError::Thread)?;
            }
        }
        let local = SocketAddr::new(spec.local, spec.esp_port);
        let sockets = EspSocket::open(local, threads);
        let sockets = sockets.map_err(|source| StartError::Socket { local, source })?;
        Self::of(spec, tables, taps, sockets)
    }

    /// What another process had. Of the ports, it is to be said yet what they are.
    pub(super) fn adopt(spec: &PathSpec, from: HandedOver) -> Result<Self, StartError> {
        let HandedOver { mut state, fds } = from;
        let per_thread = state.fds_per_thread();
        let threads = fds.len() / per_thread;
        let (form, carried, udp) = (state.form(), std::mem::take(&mut state.ports), state.udp);
        let mut tables = state.into_tables().map_err(StartError::HandOver)?;
        tables.want(spec).map_err(StartError::HandOver)?;
        if fds.is_empty() || fds.len() != threads * per_thread {
            return Err(StartError::HandOver(PathError::BadState));
        }
        let mut fds = fds.into_iter();
        let mut taps = Vec::new();
        match form {
            Form::Vxlan => {
                let adopted: io::Result<_> = fds.by_ref().take(threads).map(Tap::adopt).collect();
                taps = adopted.map_err(|source| StartError::Tap {
                    what: "what was handed over",
                    source,
                })?;
            }
            Form::Port => {
                let adopted = Ports::adopt(carried, udp, threads, &mut fds);
                tables.ports = adopted.map_err(StartError::Thread)?;
            }
        }
        let sockets: io::Result<_> = fds.map(EspSocket::adopt).collect();
        let sockets = sockets.map_err(|source: io::Error| StartError::Socket {
            local: SocketAddr::new(spec.local, spec.esp_port),
            source,
        })?;
        Self::of(spec, tables, taps, sockets)
    }

    fn of(
        spec: &PathSpec,
        tables: Tables,
        taps: Vec<Tap>,
        sockets: Vec<EspSocket>,
    ) -> Result<Self, StartError> {
        let (form, udp) = match taps.first() {
            Some(tap) => {
                let mac = tap.hardware_address();
                let wrapper = Wrapper {
                    source_mac: PEER_MAC,
                    mac: mac.map_err(|source| StartError::Tap {
                        what: "its address",
                        source,
                    })?,
                    local: spec.local,
                };
                (offload::Form::Tunnel(wrapper), true)
            }
            None => (offload::Form::Frame(PORT_LAYOUT), tables.ports.takes_udp()),
        };
        let config = Config {
            form,
            tcp: true,
            udp,
        };
        let mut sources: Vec<_> = taps.into_iter().map(Source::Tunnel).collect();
        if sources.is_empty() {
            let of_ports = (0..sockets.len()).filter_map(|thread| {
                let poll = tables.ports.poll(thread)?;
                Some(Source::Ports { thread, poll })
            });
            sources.extend(of_ports);
        }
        Ok(Self {
            pairs: sources.into_iter().zip(sockets).collect(),
            tables,
            config,
        })
    }
}
