#!lua flags=allow-oom
-- uses wake
-- What is delayed for a destination that was defined anew is due now, whatever the old definition failed at.
-- KEYS fixed, then
--   1 circuits
-- ARGV
--   1 uid
--   2 crew
--   3 agent               its name on the delivery queue
--   4 of                  the new definition (circuits.key in Python)
--   5 skip                so many that stay as they are were looked at before
--   6 most                so many it looks at
-- Answers
--   {'gone'}
--   {'ok', skip}          for the next call; '': there is nothing more to do
local uid, crew, agent, of, skip, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local circuits = KEYS[FIXED + 1]
if is_gone(uid) then return { 'gone' } end
if redis.call('HGET', META, agent) ~= of .. ' ' then return { 'ok', '' } end     -- done, or defined anew again
redis.call('HDEL', circuits, of)      -- it may have been the definition before
local found = redis.call('ZRANGEBYSCORE', DELAYED, '(' .. now, '+inf', 'LIMIT', skip, most)
local prefix, changed = agent .. FS, {}
for _, member in ipairs(found) do
  if string.sub(member, 1, #prefix) == prefix then changed[#changed + 1], changed[#changed + 2] = now, member end
end
if #changed > 0 then
  redis.call('ZADD', DELAYED, unpack(changed))
  ring()
  wake(crew, true)
end
if #found == most then return { 'ok', int(skip + #found - #changed / 2) } end
redis.call('HSET', META, agent, of)
return { 'ok', '' }
