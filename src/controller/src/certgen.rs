//! Certificates for the hooks: an authority whose key nobody keeps, one certificate for the controller and
//! one for Envoy Gateway. Whoever has neither cannot ask.

use anyhow::Context as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::cli::CertgenOptions;

/// The controller's certificate, its key, and the authority that Envoy Gateway's is of.
pub const CONTROLLER: &str = "warmpath-controller-tls";
/// The authority that the controller's certificate is of, as Envoy Gateway reads it: key `tls.crt`.
pub const AUTHORITY: &str = "warmpath-controller-ca";
/// Envoy Gateway's certificate and its key.
pub const ENVOY_GATEWAY: &str = "warmpath-envoy-gateway-tls";

/// All in PEM.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: String,
    /// The controller's certificate and key.
    pub controller: (String, String),
    /// Envoy Gateway's certificate and key.
    pub envoy_gateway: (String, String),
}

/// Makes all of them. `names`: DNS names of the controller.
///
/// # Errors
/// A name that is none.
pub fn certificates(names: Vec<String>) -> Result<Certificates, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "warmpath");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let signed = |names: Vec<String>, name: &str, usage: ExtendedKeyUsagePurpose| {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        Ok::<_, rcgen::Error>((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    Ok(Certificates {
        authority,
        controller: signed(names, "warmpath-controller", ExtendedKeyUsagePurpose::ServerAuth)?,
        envoy_gateway: signed(Vec::new(), "envoy-gateway", ExtendedKeyUsagePurpose::ClientAuth)?,
    })
}

/// Makes the three Secrets. Where all are there, nothing is done.
///
/// # Errors
/// No way to the API server, a right that lacks, or Secrets of which only some are there.
pub async fn run(options: &CertgenOptions) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no way to an API server")?;
    let CertgenOptions { namespace, envoy_gateway_namespace, service, domain } = options;
    let ours: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let theirs: Api<Secret> = Api::namespaced(client, envoy_gateway_namespace);
    let all = [(&ours, CONTROLLER), (&theirs, AUTHORITY), (&theirs, ENVOY_GATEWAY)];
    let mut there = Vec::new();
    for (api, name) in all {
        let found = api.get_opt(name).await.with_context(|| format!("Secret {name}"))?;
        there.extend(found.map(|_| name));
    }
    if there.len() == all.len() {
        tracing::info!("the certificates are there and stay");
        return Ok(());
    }
    anyhow::ensure!(
        there.is_empty(),
        "only {} of the Secrets {CONTROLLER} ({namespace}), {AUTHORITY} and {ENVOY_GATEWAY} ({envoy_gateway_namespace}) are \
         there: delete them, they belong together",
        there.join(" and ")
    );
    let names = vec![
        format!("{service}.{namespace}.svc.{domain}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}"),
    ];
    let made = certificates(names)?;
    let pair = |(certificate, key): &(String, String)| {
        vec![("tls.crt", certificate.clone()), ("tls.key", key.clone())]
    };
    let mut of_controller = pair(&made.controller);
    of_controller.push(("ca.crt", made.authority.clone()));
    create(&ours, CONTROLLER, of_controller).await?;
    create(&theirs, AUTHORITY, vec![("tls.crt", made.authority.clone())]).await?;
    create(&theirs, ENVOY_GATEWAY, pair(&made.envoy_gateway)).await?;
    tracing::info!("the certificates are made");
    Ok(())
}

async fn create(api: &Api<Secret>, name: &str, data: Vec<(&str, String)>) -> anyhow::Result<()> {
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())));
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    let secret = Secret { metadata, data: Some(data.collect()), ..Secret::default() };
    api.create(&PostParams::default(), &secret).await.with_context(|| format!("Secret {name}"))?;
    Ok(())
}
