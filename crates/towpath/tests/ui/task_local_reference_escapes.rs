towpath::task_local! {
    static TEXT: String = String::new();
}

fn main() {
    let _text: &str = TEXT.with(|text| text.as_str());
}
