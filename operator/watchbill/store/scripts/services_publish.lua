-- Results of a crew go to a stream for other programs, each once and in order, whoever publishes them and how often.
-- KEYS
--   1 stream
--   2 marker              id of the last result that was published, in the same slot
-- ARGV
--   1 most                how long the stream is kept, about
--   2 through             id of the last result that the caller has seen
--   3 ...                 results in order, each with
--     id
--     task
--     payload
-- Answers {the marker, how many were published by this call}
local stream, marker = KEYS[1], KEYS[2]
local most, through = ARGV[1], ARGV[2]
local function parts(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(number)
end
local last = redis.call('GET', marker) or '0-0'
local function is_new(id)
  local ms, number = parts(id)
  local last_ms, last_number = parts(last)
  return ms > last_ms or ms == last_ms and number > last_number
end
local published = 0
for i = 3, #ARGV, 3 do
  local id, task, payload = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if is_new(id) then
    redis.call('XADD', stream, 'MAXLEN', '~', most, '*', 'task_id', task, 'payload', payload)
    last = id
    published = published + 1
  end
end
if is_new(through) then last = through end
redis.call('SET', marker, last)
return { last, published }
