"""Measurements for people and for other tools: terminal tables, JSON, Chrome traces and a page of HTML."""
