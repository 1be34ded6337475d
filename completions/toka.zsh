
#compdef toka

_toka_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _TOKA_COMPLETE=complete_zsh toka)
}

compdef _toka_completion toka

