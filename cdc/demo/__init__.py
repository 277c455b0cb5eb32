"""`cdc demo`: a whole group on this machine, under load, with daemons killed on the way.

The way to read it: `run` tells the story, `failover` its second act; `scene` holds all that goes on meanwhile;
`load` writes what `shop` makes up; `watch` looks at each follower as its readers do; `compare` has the last
word; `screen` and `report` are what people see.

Nothing here is known to the pipeline: it is started as the same command line that operators use.
"""
