"""Write the tables as files for other tools: typed, labelled, whole or not there at all."""
