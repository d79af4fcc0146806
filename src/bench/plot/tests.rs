use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Its name, its attributes, and the text that follows it.
type Element = (String, BTreeMap<String, String>, String);

/// The elements in order. Panics where a reader of XML would stop.
fn elements(svg: &str) -> Vec<Element> {
    let (mut found, mut open): (Vec<Element>, Vec<String>) = (Vec::new(), Vec::new());
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a bare >");
        let end = start + rest[start..].find('>').expect("a tag that ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut list) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attributes = BTreeMap::new();
        while let Some((key, more)) = list.split_once("=\"") {
            let (value, more) = more.split_once('"').expect("a value that ends");
            assert!(
                attributes
                    .insert(key.trim().to_owned(), value.to_owned())
                    .is_none()
            );
            list = more;
        }
        assert_eq!(list.trim(), "", "{tag}");
        if !closed {
            open.push(name.to_owned());
        }
        let text = rest.split('<').next().unwrap_or_default().to_owned();
        for entity in text.split('&').skip(1) {
            assert!(
                ["amp;", "lt;", "gt;", "quot;"]
                    .iter()
                    .any(|known| entity.starts_with(known))
            );
        }
        found.push((name.to_owned(), attributes, text));
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    assert_eq!(found.iter().filter(|(name, ..)| name == "svg").count(), 1);
    found
}

fn number(element: &Element, attribute: &str) -> f64 {
    element.1[attribute].parse().unwrap()
}

fn of_class<'a>(elements: &'a [Element], class: &str) -> Vec<&'a Element> {
    let is = |element: &&Element| element.1.get("class").is_some_and(|of| of == class);
    elements.iter().filter(is).collect()
}

fn chart(panels: Vec<Vec<Line>>) -> Chart {
    let panel = |(number, lines)| Panel {
        title: format!("panel {number}"),
        lines,
    };
    Chart {
        title: "a < b & \"c\"".into(),
        subtitle: "device\u{1}".into(),
        warning: None,
        x: "rank".into(),
        y: "× merged".into(),
        colours: vec!["one".into(), "other".into()],
        marks: (1..=5).map(|n| n.to_string()).collect(),
        panels: panels.into_iter().enumerate().map(panel).collect(),
    }
}

fn line(colour: usize, mark: usize, points: &[(f64, f64)]) -> Line {
    Line {
        colour,
        mark,
        points: points.to_vec(),
    }
}

/// The points of each frame's lines.
fn points(elements: &[Element]) -> Vec<(Element, Vec<(f64, f64)>)> {
    let mut frames: Vec<(Element, Vec<(f64, f64)>)> = Vec::new();
    for element in elements {
        if element.1.get("class").is_some_and(|class| class == "frame") {
            frames.push((element.clone(), Vec::new()));
        }
        if element.0 == "polyline" {
            let corners = element.1["points"].split_whitespace().map(|corner| {
                let (x, y) = corner.split_once(',').unwrap();
                (x.parse().unwrap(), y.parse().unwrap())
            });
            frames
                .last_mut()
                .expect("a frame before its lines")
                .1
                .extend(corners);
        }
    }
    frames
}

#[test]
fn a_chart_is_what_it_was_made_of() {
    let rising = [(4.0, 1.02), (8.0, 1.04), (16.0, 1.25)];
    let svg = svg(&chart(vec![
        vec![line(0, 0, &rising), line(1, 4, &[(4.0, 1.5), (16.0, 2.0)])],
        vec![line(0, 1, &[(8.0, 0.9)])],
        Vec::new(),
    ]));
    let all = elements(&svg);
    assert_eq!(of_class(&all, "title")[0].2, "a &lt; b &amp; &quot;c&quot;");
    assert!(of_class(&all, "warning").is_empty());
    let text = |class| -> Vec<String> { of_class(&all, class).iter().map(|e| e.2.clone()).collect() };
    assert_eq!(text("name"), ["panel 0", "panel 1", "panel 2"]);
    assert_eq!(text("key-name"), ["one", "other", "1", "2", "3", "4", "5"]);

    // From 0.9 to 2 in steps that are read easily, and alike in all panels.
    let labels = ["0.8", "1.0", "1.2", "1.4", "1.6", "1.8", "2.0"];
    assert_eq!(text("y-tick"), labels.repeat(3));
    assert_eq!(text("x-tick"), ["4", "8", "16"].repeat(3));

    let frames = points(&all);
    let counts: Vec<usize> = frames.iter().map(|(_, points)| points.len()).collect();
    assert_eq!(counts, [5, 1, 0]);
    // The last line lies below the others, and comes first.
    let (frame, at) = &frames[0];
    let (top, height) = (number(frame, "y"), number(frame, "height"));
    let of = |y: f64| top + height * (2.0 - y) / 1.2;
    for ((x, y), (point, want)) in at
        .iter()
        .zip([(0, 1.5), (2, 2.0), (0, 1.02), (1, 1.04), (2, 1.25)])
    {
        assert!((y - of(want)).abs() <= 0.1, "{want} at {y}, not {}", of(want));
        let tick = number(of_class(&all, "x-tick")[point], "x");
        assert!((x - tick).abs() <= 0.1, "{want} at {x}, not {tick}");
    }
    // Each twice the one before: all as far apart.
    let x: Vec<f64> = of_class(&all, "x-tick")[..3]
        .iter()
        .map(|tick| number(tick, "x"))
        .collect();
    assert!((x[1] - x[0] - (x[2] - x[1])).abs() <= 0.2, "{x:?}");
}

#[test]
fn a_warning_is_shown() {
    let warned = Chart {
        warning: Some("means nothing".into()),
        ..chart(vec![Vec::new()])
    };
    let all = elements(&svg(&warned));
    assert_eq!(of_class(&all, "warning")[0].2, "means nothing");
}

#[test]
fn text_is_large_enough_to_be_read() {
    let sizes: Vec<f64> = style()
        .split("px")
        .filter_map(|before| before.rsplit([' ', ':']).next()?.parse().ok())
        .collect();
    assert_eq!(sizes.len(), style().matches("px").count());
    assert!(sizes.iter().all(|&size| size >= 11.0), "{sizes:?}");
}

/// Any line; also with points that cannot be drawn.
fn any_line() -> impl Strategy<Value = Line> {
    let points = prop::collection::vec(((1u32..300).prop_map(f64::from), 0.001f64..1e4), 0..6);
    (0usize..2, 0usize..6, points, any::<bool>()).prop_map(|(colour, mark, mut points, broken)| {
        if broken {
            points.extend([(4.0, f64::NAN), (0.0, 1.0), (8.0, f64::INFINITY)]);
        }
        line(colour, mark, &points)
    })
}

proptest! {
    /// Whatever the numbers are; those that cannot be drawn are left out.
    #[test]
    fn everything_is_on_the_page_and_points_in_their_frame(
        panels in prop::collection::vec(prop::collection::vec(any_line(), 0..5), 0..6),
    ) {
        let all = panels.iter().flatten().flat_map(|line| &line.points);
        let wanted = all.filter(|(x, y)| *x > 0.0 && y.is_finite()).count();
        let count = panels.len();
        let svg = svg(&chart(panels));
        let all = elements(&svg);
        let (width, height) = (number(&all[0], "width"), number(&all[0], "height"));
        let frames = points(&all);
        prop_assert_eq!(frames.len(), count);
        prop_assert_eq!(frames.iter().map(|(_, points)| points.len()).sum::<usize>(), wanted);
        for (frame, points) in &frames {
            let [x, y, w, h] = ["x", "y", "width", "height"].map(|name| number(frame, name));
            prop_assert!(x > 0.0 && y > 0.0 && x + w < width && y + h < height);
            for &(px, py) in points {
                prop_assert!(x < px && px < x + w && y - 0.1 <= py && py <= y + h + 0.1, "{px} {py} in {frame:?}");
            }
        }
        for text in all.iter().filter(|(name, ..)| name == "text") {
            let (x, y) = (number(text, "x"), number(text, "y"));
            prop_assert!(x > 0.0 && x < width && y > 11.0 && y < height, "{text:?}");
        }
        let ticks = of_class(&all, "y-tick");
        prop_assert!(ticks.len() <= 11 * count.max(1) && ticks.len() >= 2 * count, "{} ticks", ticks.len());
        for pair in ticks.windows(2).filter(|pair| number(pair[0], "x") == number(pair[1], "x")) {
            let label = |tick: &Element| tick.2.parse::<f64>().unwrap();
            let higher = number(pair[1], "y") < number(pair[0], "y");
            // The next panel begins again from below.
            prop_assert!(higher == (label(pair[1]) > label(pair[0])), "{pair:?}");
        }
    }
}
