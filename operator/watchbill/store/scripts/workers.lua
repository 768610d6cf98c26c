#!lua flags=no-writes
-- uses workers
-- The workers of a queue: what each holds, and whether it is to drain. Costs what the number of workers costs.
-- KEYS fixed
-- ARGV
--   1 uid
-- Answers
--   {'gone'}
--   {'ok', now in ms, when a drain was last taken back in ms ('0': never), workers}
--   workers               for each that lives, or holds entries that nobody has taken over yet: incarnation, entries
--     that it holds, what it says of itself or '', its drain flag or ''
local uid = ARGV[1]
if is_gone(uid) then return { 'gone' } end
return workers_of()
