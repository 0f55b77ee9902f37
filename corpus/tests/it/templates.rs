//! Templates.

use super::*;

#[test]
fn templates_substitute_once() {
    #[track_caller]
    fn check(template: &str, expected: &str, n_missing: usize) {
        let metadata = json!({"year": 2026, "tags": ["a", 1], "url": null, "a.b-c_d": true,
            "meta": {"name": "N", "deep": {"er": [1, 2]}}});
        let rendered = Template::parse(template)
            .unwrap()
            .render(&passage("p1", "T <text>", " x ", metadata));
        assert_eq!(
            (rendered.text.as_str(), rendered.n_missing),
            (expected, n_missing),
            "{template}"
        );
    }
    check("<title> <text>", "T <text>  x", 0);
    check("  <text>\n", "x", 0);
    check(
        "<_id>: <year> (<tags>) <url><none>|<a.b-c_d>",
        "p1: 2026 (a, 1) |true",
        2,
    );
    check(
        "<meta.name> <meta.deep.er> <metadata.year>",
        "N 1, 2 2026",
        0,
    );
    check("<meta.none> <year.name> <.>|", "|", 3);
    check("<< text> <text <text> <>", "<< text> <text  x  <>", 0);
    check("<text><text>", "x  x", 0);
    assert_eq!(Template::default().as_str(), "<title> <text>");
    assert_eq!(Template::default().fields(), ["title", "text"]);
    assert_eq!(
        Template::default()
            .render(&passage("p", "", "x", json!({})))
            .text,
        "x"
    );
    assert!(matches!(
        Template::parse("no <field here>"),
        Err(TemplateError::NoField { .. })
    ));
    let schema: Schema = toml::from_str("[fields]\nyear = \"integer\"").unwrap();
    assert_eq!(
        Template::parse("<_id> <title> <year> <year.inner> <metadata.year>")
            .unwrap()
            .check_fields(&schema),
        Ok(())
    );
    let error = Template::parse("<title> <name>")
        .unwrap()
        .check_fields(&schema)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "template field `name` is not one of title, text, _id, year"
    );
    let stored = serde_json::to_string(&Template::default()).unwrap();
    assert_eq!(stored, "\"<title> <text>\"");
    assert_eq!(
        serde_json::from_str::<Template>(&stored).unwrap(),
        Template::default()
    );
    let query = corpus::Query {
        id: "q".into(),
        text: "why".into(),
        metadata: Map::new(),
        line: 1,
    };
    assert_eq!(
        Template::parse("query: <text>")
            .unwrap()
            .render_query(&query)
            .text,
        "query: why"
    );
}
