#!lua flags=allow-oom
-- uses events destinations
-- What is known of a destination that fails: after some failures in a row nothing is sent to it for a while, then one
-- message as a trial. One that wants no further message gets none. A destination that works has no entry here.
-- KEYS fixed, then
--   1 circuits
--   2 record              of the delivery, where it failed
-- ARGV
--   1 uid
--   2 of                  the destination
--   3 what                enter (may I send?) | success | failure
--   4 bound               failures in a row after which nothing is sent
--   5 shortest            for so long at first, in ms; of enter: the time that the trial may take
--   6 longest             for so long at most, in ms
--   7 counts              1: the failure says that the destination doesn't work
--   8 is_gone             1: the destination asks for no further message
--   9 asked               the destination asks for a pause so long, in ms
--   10 attempt            that failed, packed (packed.Attempt in Python)
--   11 name               of the destination, for the feed
--   12 remaining          recipients that it has not reached; '': as before
--   13 agent              the destination's name on the delivery queue; '': it doesn't matter
-- Answers
--   {'gone'}
--   {'ok', failures, open, gone, wait, redefined}    failures in a row; before when nothing is sent, in ms; 1: it wants
--     no message; of enter: in how many ms to ask again (0: send); of failure: 1: the crew has another destination of
--     this name by now
local uid, of, what, bound = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local shortest, longest, counts, is_gone = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1', ARGV[8] == '1'
local asked, attempt, name, remaining, agent = tonumber(ARGV[9]), ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local circuits, record = KEYS[FIXED + 1], KEYS[FIXED + 2]
if redis.call('HGET', META, 'uid') ~= uid then return { 'gone' } end

local function tell(text) event('mission_event', '"message":' .. quote('destination ' .. name .. ' ' .. text)) end

local known = redis.call('HGET', circuits, of)
local failures, open, gone, trial = string.match(known or '0 0 0 0 0', '^(%d+) (%d+) ([01]) (%d+)')
failures, open, trial = tonumber(failures), tonumber(open), tonumber(trial)
local was_open = failures >= bound

local function save()
  redis.call('HSET', circuits, of, int(failures) .. ' ' .. int(open) .. ' ' .. gone .. ' ' .. int(trial) .. ' ' .. now)
end

if what == 'enter' then
  local wait = 0
  if gone == '0' and open > now_ms then
    wait = open - now_ms
  elseif gone == '0' and was_open and trial > now_ms then
    wait = trial - now_ms
  elseif gone == '0' and was_open then
    trial = now_ms + shortest
    save()
  end
  return { 'ok', failures, open, tonumber(gone), wait, 0 }
end

-- Messages that were on their way when the circuit opened say nothing new, whether they are taken or fail. So nobody
-- sends before `open`, and a worker that knows of it needn't ask again.
if what == 'success' then
  if gone == '1' or open > now_ms then return { 'ok', failures, open, tonumber(gone), 0, 0 } end
  if redis.call('HDEL', circuits, of) == 1 and was_open then tell('takes messages again') end
  return { 'ok', 0, 0, 0, 0, 0 }
end

if counts and open <= now_ms then
  failures, trial = failures + 1, 0
  if failures >= bound then
    open = now_ms + math.min(shortest * 2 ^ math.min(failures - bound, 32), longest)
    if not was_open then tell('fails: what waits for it is tried again later') end
  end
end
if asked > 0 then open = math.max(open, now_ms + asked) end
if is_gone and gone == '0' then
  gone = '1'
  tell('wants no further message, and gets none until it is defined anew')
end
if counts or asked > 0 or is_gone then
  save()
  if not known and redis.call('HLEN', circuits) > 1000 then      -- those of single submissions come and go
    local all = redis.call('HGETALL', circuits)
    for i = 1, #all, 2 do
      local at = tonumber(string.match(all[i + 1], '%d+$'))
      if at < now_ms - 7 * DAY * 1000 then redis.call('HDEL', circuits, all[i]) end
    end
  end
end
if redis.call('EXISTS', record) == 1 then
  local log = redis.call('HGET', record, 'log')
  redis.call('HSET', record, 'log', (log and log .. LS or '') .. now .. FS .. attempt)
  if remaining ~= '' then redis.call('HSET', record, 'remaining', remaining) end
end
return { 'ok', failures, open, tonumber(gone), 0, is_redefined(agent, of) and 1 or 0 }
