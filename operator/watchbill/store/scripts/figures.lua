#!lua flags=no-writes
-- uses limits counts figures
-- How much a crew has to do, as of one moment. What it costs doesn't depend on how much that is, but for the number of
-- workers.
-- KEYS fixed
-- ARGV
--   1 most                results that are looked at; 0: none
--   2 behind              the id behind which they are; '': only how many there were
-- Answers
--   {}                    there is no such crew
--   {now in ms, when delayed work is due or that of a rate limit ('': there is none), delayed, running, parked for
--     concurrency, for an agent, for an interrupt, for the limits of agents, dead, refused, trimmed, suspended since in
--     ms ('': it is not), 1: requests wait for batches, classes, workers, ended, outbox}
--   classes               for each waiting, running, id of the head or ''
--   workers               for each that lives what it says of itself, or ''; is it to drain?
--   ended                 {} | {results ever, id of the last, looked at, completed, failed}
--   outbox                {} (the crew has never delivered anything) | {entries, id of the first or ''}
local most, behind = tonumber(ARGV[1]), ARGV[2]
return figures_of(most, behind)
