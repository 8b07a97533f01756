mod output;
mod parse;
