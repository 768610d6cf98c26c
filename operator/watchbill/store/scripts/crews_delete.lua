-- Deletes crews with all that points at them: each one whole, and only if its record is still the one that was read.
-- A crew read as missing only leaves the index.
-- KEYS 1 index, 2 answer, then for each crew: its record, its id's entry (the record again where the id is unknown)
-- ARGV 1 seconds to keep the answer, then for each crew: its name, its record as read ('' for none)
-- Answer: one letter per crew, in order: d deleted, m missing, c changed since it was read
local answered = redis.call('GET', KEYS[2])
if answered then
  return answered -- our first send was applied and its reply was lost
end
redis.call('SISMEMBER', KEYS[1], '') -- these reads fail, before any write, if another program's key is in the way
local letters, points = {}, {}
for i = 1, (#KEYS - 2) / 2 do
  local record = redis.call('GET', KEYS[2 * i + 1])
  points[i] = redis.call('GET', KEYS[2 * i + 2]) == ARGV[2 * i]
  letters[i] = (record or '') ~= ARGV[2 * i + 1] and 'c' or record and 'd' or 'm'
end

for i = 1, #letters do
  if letters[i] == 'd' then
    redis.call('DEL', KEYS[2 * i + 1])
    if points[i] then
      redis.call('DEL', KEYS[2 * i + 2])
    end
  end
  if letters[i] ~= 'c' then
    redis.call('SREM', KEYS[1], ARGV[2 * i])
  end
end
local answer = table.concat(letters)
redis.call('SET', KEYS[2], answer, 'EX', ARGV[1])
return answer
