//! What a service may say that no data plane of this version carries out: refused by name, so that
//! nothing is promised and not kept. Whoever builds one of these deletes its refusal here.

use crate::api::types::{ApiError, ErrorCode, Port, SourceMode};

/// Refuses ports that this version cannot honour.
pub(super) fn refuse(ports: &[Port]) -> Result<(), ApiError> {
    let unsupported = |message: &str| Err(ApiError::new(ErrorCode::Unsupported, message));
    if ports.iter().any(|port| port.source == SourceMode::ProxyV2) {
        return unsupported(
            "source=proxy-v2 is not carried out by this version of weft yet; use source=preserve or \
             source=snat",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish;

    #[test]
    fn what_is_not_carried_out_is_refused_by_name_and_the_rest_is_not() {
        let ports = |spec| publish::parse(spec).unwrap();
        let proxy = ports("target=80,source=proxy-v2");
        let error = refuse(&proxy).unwrap_err();
        assert_eq!(error.code, ErrorCode::Unsupported);
        assert!(error.message.contains("source=proxy-v2"), "{error}");
        for spec in ["80", "target=80,source=snat", "target=80,mode=host"] {
            assert_eq!(refuse(&ports(spec)), Ok(()), "{spec}");
        }
    }
}
