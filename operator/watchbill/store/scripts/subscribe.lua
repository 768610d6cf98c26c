#!lua flags=allow-oom
-- uses streams tasks
-- Somebody waits for a task, or a run, to end: whoever ends it sends a message to their channel.
-- KEYS fixed, then
--   1 task
--   2 run
-- ARGV
--   1 channel
-- Answers
--   over                  it has ended, or isn't there
--   ok
local task, run, channel = KEYS[FIXED + 1], KEYS[FIXED + 2], ARGV[1]
local known = redis.call('HMGET', task, 'state', 'finished')
if known[1] then
  if known[2] then return 'over' end
  subscribe(task, channel)
  return 'ok'
end
local state = redis.call('HGET', run, 'state')
if state ~= 'creating' and state ~= 'running' and state ~= 'cancelling' then return 'over' end
subscribe(run, channel)
return 'ok'
