/// Prints the OpenAPI document.
pub fn run() -> anyhow::Result<()> {
    crate::output::print(&server::openapi_document())
}
