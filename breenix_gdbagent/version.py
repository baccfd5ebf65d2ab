"""The version of the agent, as every report and snapshot has it."""

VERSION = "0.2.0.dev0"
