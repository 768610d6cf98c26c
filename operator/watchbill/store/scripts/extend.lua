#!lua
-- uses events holders answers outbox streams tasks steps runs new_runs
-- Adds steps to a run that goes on, for a step of it that is held: the next iteration of a loop, or one for each item
-- of a list. Those that are there stay as they are. At most 500 a call.
-- KEYS fixed, then
--   1 run
--   2 steps
--   3 run_events
-- ARGV
--   1 uid
--   2 id                  of the step that is held
--   3 fence
--   4 follows             the new step that comes after it; '': none
--   5 target              the step that also waits for all new ones; '': none
--   6 max_queued
--   7 in_all              steps for which there must be room; 0: that is known
--   8 n                   steps here, each with
--     name
--     agent
--     left
--     successors          joined by LS; '': none
--     marks
--     item                as JSON; '': none
-- Answers
--   {'gone'}
--   {'stale'}             the step isn't held under this fence any more
--   {'over'}              the run is being cancelled: nothing new begins
--   {'full'}              there may be room later
--   {'late'}              it has waited for an hour for that: the steps that wait may keep each other from going on
--   {'ok', added}
local uid, id, fence, follows, target = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local max_queued, in_all, n = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local WAIT = 3600000            -- for so long a step waits for room, in ms
local run_id, name = string.match(id, '^([^/]+)/(.*)$')
local of = { run_id = run_id, run = KEYS[FIXED + 1], steps = KEYS[FIXED + 2], run_events = KEYS[FIXED + 3] }
if is_gone(uid) then return { 'gone' } end
local h, step = holder(id), read_step(of.steps, name)
if not h or h.fence ~= fence or not step or step.finished ~= '0' then return { 'stale' } end
if redis.call('HGET', of.run, 'state') ~= 'running' then return { 'over' } end
local index, added = redis.call('HLEN', of.steps), {}
for i = 1, n do
  local at = 9 + 6 * (i - 1)
  local new, agent, left, successors = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  local marks, item = ARGV[at + 4], ARGV[at + 5]
  if redis.call('HEXISTS', of.steps, new) == 0 then
    added[#added + 1] = { name = new, agent = agent, index = int(index), left = left, successors = successors,
      marks = marks, item = item }
    index = index + 1
  end
end
if #added > 0 and in_all > 0 then
  -- What is delayed counts only above max_queued: else steps that wait for room would take it from each other.
  local known = present(queued()) - math.min(redis.call('ZCARD', DELAYED), max_queued)
  if known + in_all > max_queued then
    local since = redis.call('HGET', of.run, 'room:' .. name)
    if not since then redis.call('HSET', of.run, 'room:' .. name, now) end
    if not since or now_ms - since < WAIT then return { 'full' } end
  end
  redis.call('HDEL', of.run, 'room:' .. name)
  if known + in_all > max_queued then return { 'late' } end
end
for _, new in ipairs(added) do
  if new.item ~= '' then redis.call('HSET', of.run, 'item:' .. new.name, new.item) end
end
if target ~= '' and #added > 0 then
  local waits = read_step(of.steps, target)
  waits.left = waits.left + #added
  write_step(of.steps, target, waits)
end
if follows ~= '' and step.successors == NONE then
  step.successors = follows
  write_step(of.steps, name, step)
end
add_steps(of, added)
redis.call('HINCRBY', of.run, 'steps', #added)
local before = queued()
runs().pump(of, {})
if queued() > before then ring() end
return { 'ok', #added }
