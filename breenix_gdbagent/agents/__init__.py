"""The agent in the hands of a coding agent: tools with typed answers, resources and prompts, served
by the Model Context Protocol; and the skill that teaches the command line.

Only `agents.server` imports the protocol's SDK.
"""
