#!lua flags=allow-oom
-- uses events holders answers outbox streams steps runs ends states results limits releases wake stops
-- From now on no step of this run begins; those that wait for the run's own bound are taken out, at most 500 a call.
-- Then the steps that the caller names are cancelled as `stop` does it; it names what is on a stream, runs, or waits
-- to be tried again or resumed, as far as it knows. The run ends with the last of it.
-- KEYS fixed, then
--   1 run
--   2 steps
--   3 results
--   4 definition
--   5 run_events
--   6 ...                 agent_events of each step
-- ARGV
--   1 uid
--   2 crew
--   3 run_id
--   4 why
--   5 ttl                 for how long records are kept, in ms
--   6 channel             control, on which workers hear of it
--   7 only                the state that it must have; '': any
--   8 ...                 names of steps, at most 500
-- Answers
--   {'gone'}
--   {'missing'}
--   {'over', state}
--   {'again'}             there is more to take out
--   {'ok', state}
local uid, crew, run_id, why, ttl, channel, only = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local of = { run_id = run_id, run = KEYS[FIXED + 1], steps = KEYS[FIXED + 2], results = KEYS[FIXED + 3],
  definition = KEYS[FIXED + 4], run_events = KEYS[FIXED + 5] }
if is_gone(uid) then return { 'gone' } end
local run = redis.call('HMGET', of.run, 'state', 'active')
local state, active = run[1], tonumber(run[2] or '0')
if not state then return { 'missing' } end
if state ~= 'creating' and state ~= 'running' and state ~= 'cancelling' then return { 'over', state } end
if only ~= '' and state ~= only then return { 'over', state } end
redis.call('HSETNX', of.run, 'why', why)
if state == 'running' then
  redis.call('HSET', of.run, 'state', 'cancelling')
  runs().changed(of, 'running', 'cancelling', why)
end
local members = runs().bound_members(run_id, 500)
for _, member in ipairs(members) do
  local name = runs().name_of_bound(run_id, member)
  redis.call('ZREM', PARKED, member)
  local step = read_step(of.steps, name)
  step.state, step.finished, step.attempt = 'skipped', now, '0'      -- above 0: by its own condition
  write_step(of.steps, name, step)
end
if #members > 0 then redis.call('HINCRBY', of.run, 'parked', -#members) end      -- Redis 7.0 can't read -0
if #members == 500 then return { 'again' } end
if active == 0 then
  runs().end_run(of, tonumber(ttl))
  trim_results(tonumber(ttl))
else
  for i = 8, #ARGV do
    local name, agent_events = ARGV[i], KEYS[FIXED + i - 2]
    stop('cancel', why, ttl, { id = run_id .. '/' .. name, run_id = run_id, name = name, run = of.run, steps = of.steps,
      results = of.results, definition = of.definition, agent_events = agent_events, run_events = of.run_events })
  end
end
settle_stops(crew, channel, 'cancel', ttl)
return { 'ok', redis.call('HGET', of.run, 'state') }
