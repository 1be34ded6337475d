"""The outside world of MCP servers."""
