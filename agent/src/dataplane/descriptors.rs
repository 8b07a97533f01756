//! Descriptors from one process to another (`SCM_RIGHTS`, unix(7)).

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Descriptors in one message; the kernel takes 253 (`SCM_MAX_FD`).
const BATCH: usize = 64;

/// Sends descriptors, a byte with each batch.
pub(super) async fn send(stream: &UnixStream, all: &[BorrowedFd<'_>]) -> io::Result<()> {
    for batch in all.chunks(BATCH) {
        let send = || send_batch(stream, batch);
        stream.async_io(Interest::WRITABLE, send).await?;
    }
    Ok(())
}

/// Receives so many that were sent so.
pub(super) async fn receive(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut all = Vec::new();
    while all.len() < count {
        let batch = stream.async_io(Interest::READABLE, || receive_batch(stream));
        let batch = batch.await?;
        if batch.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        all.extend(batch);
    }
    Ok(all)
}

fn send_batch(stream: &UnixStream, batch: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(batch));
    sendmsg(
        stream,
        &[IoSlice::new(&[0])],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive_batch(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut received = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(batch) = message {
            received.extend(batch);
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn sockets_go_on_elsewhere() {
        let (here, there) = UnixStream::pair().unwrap();
        let made: Vec<TcpListener> = (0..150)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let descriptors: Vec<_> = made.iter().map(AsFd::as_fd).collect();
        let (sent, received) = tokio::join!(send(&here, &descriptors), receive(&there, 150));
        sent.unwrap();
        let received: Vec<_> = received
            .unwrap()
            .into_iter()
            .map(TcpListener::from)
            .collect();
        for (made, received) in made.iter().zip(&received) {
            assert_eq!(made.local_addr().unwrap(), received.local_addr().unwrap());
        }
        drop(here);
        assert!(receive(&there, 1).await.is_err());
    }
}
