//! Bodies, in and out. Every read has a bound in bytes and in time.

use std::time::Duration;

use poem::{
    Body, IntoResponse, Request, RequestBody, Response,
    error::ReadBodyError,
    http::{StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions,
    payload::Payload,
    registry::{MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use serde::{Serialize, de::DeserializeOwned};

use super::problem::{BAD_REQUEST, Problem, TOO_LARGE, TOO_SLOW};

const JSON: &str = "application/json; charset=utf-8";

/// Largest body of a request that is not a webhook, in bytes.
const MAX_TOLD: usize = 64 * 1024;

/// How long a body may take to come in.
const PATIENCE: Duration = Duration::from_secs(8);

/// Reads a body that has at most `limit` bytes; of a larger one no more than that.
pub(super) async fn read(request: &Request, body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let too_large = || Problem::new(TOO_LARGE, format!("the body has more than {limit} bytes"));
    let declared = request.header(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    match tokio::time::timeout(PATIENCE, body.into_bytes_limit(limit)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(ReadBodyError::PayloadTooLarge)) => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(BAD_REQUEST, "the body broke off")),
        Err(_) => Err(Problem::new(TOO_SLOW, format!("the body did not come in within {} s", PATIENCE.as_secs()))),
    }
}

/// A body as it comes, unread.
pub(super) struct Raw(pub(super) Body);

impl<'a> ApiExtractor<'a> for Raw {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        let schema = MetaSchemaRef::Inline(Box::new(MetaSchema::new("object")));
        let content = vec![MetaMediaType { content_type: "application/json", schema }];
        Some(MetaRequest { description: Some("An event of Stripe, byte for byte."), content, required: true })
    }

    async fn from_request(
        _: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        Ok(Self(body.take()?))
    }
}

/// A JSON body, whatever content type it claims: nothing else is ever meant here.
pub(super) struct Told<T>(pub(super) T);

impl<'a, T: Type + DeserializeOwned> ApiExtractor<'a> for Told<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: JSON, schema: T::schema_ref() }];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let bytes = read(request, body.take()?, MAX_TOLD).await?;
        // serde would take a list as the fields in their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::new(BAD_REQUEST, "the body must be a JSON object").into());
        }
        let told = serde_json::from_slice(&bytes);
        Ok(Self(told.map_err(|error| Problem::new(BAD_REQUEST, format!("the body is not as it should be: {error}")))?))
    }
}

/// A JSON answer. The document's schema comes from [`Type`], the text from [`Serialize`]: times end in `Z`, and what is JSON text
/// already goes out as it is.
pub(super) struct Answer<T>(pub(super) T);

impl<T: Type> Payload for Answer<T> {
    const CONTENT_TYPE: &'static str = JSON;

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Serialize + Send> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => Response::builder().content_type(JSON).body(body),
            Err(error) => poem::Error::new(error, StatusCode::INTERNAL_SERVER_ERROR).into_response(),
        }
    }
}

impl<T: Type> ApiResponse for Answer<T> {
    fn meta() -> MetaResponses {
        ok(Self::CONTENT_TYPE, T::schema_ref())
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// The figures for Prometheus, in its text format.
pub(super) struct Exposition(pub(super) String);

impl Exposition {
    const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";
}

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        Response::builder().content_type(Self::CONTENT_TYPE).body(self.0)
    }
}

impl ApiResponse for Exposition {
    fn meta() -> MetaResponses {
        ok(Self::CONTENT_TYPE, String::schema_ref())
    }

    fn register(_: &mut Registry) {}
}

fn ok(content_type: &'static str, schema: MetaSchemaRef) -> MetaResponses {
    MetaResponses {
        responses: vec![MetaResponse {
            description: "As asked.",
            status: Some(200),
            status_range: None,
            content: vec![MetaMediaType { content_type, schema }],
            headers: Vec::new(),
        }],
    }
}
